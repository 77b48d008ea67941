package main

import (
	"fmt"
	"strings"
	"time"

	"github.com/nats-io/jwt/v2"
	"github.com/nats-io/nkeys"
)

// Limits, and what they allow.
func limits() {
	lib("accept", "limits-no-limit", nil)
	hand("accept", "limits-absent", func(_, nats fields) { delete(nats, "limits") })
	hand("accept", "limits-null", func(_, nats fields) { nats["limits"] = nil })
	hand("accept", "limits-empty", func(_, nats fields) { nats["limits"] = fields{} })
	hand("limits", "limits-absent-with-export", func(_, nats fields) {
		delete(nats, "limits")
		nats["exports"] = []fields{{"subject": "a", "type": "stream"}}
	})
	hand("limits", "limits-absent-with-import", func(_, nats fields) {
		delete(nats, "limits")
		nats["imports"] = []fields{{"subject": "a", "type": "stream", "account": "x"}}
	})
	lib("accept", "limits-exports-reached", func(c *jwt.AccountClaims) {
		c.Limits.Exports = 1
		c.Exports.Add(&jwt.Export{Subject: "a", Type: jwt.Stream})
	})
	lib("limits", "limits-exports-exceeded", func(c *jwt.AccountClaims) {
		c.Limits.Exports = 1
		c.Exports.Add(&jwt.Export{Subject: "a", Type: jwt.Stream}, &jwt.Export{Subject: "b", Type: jwt.Stream})
	})
	lib("limits", "limits-imports-exceeded", func(c *jwt.AccountClaims) {
		c.Limits.Imports = 1
		c.Imports.Add(&jwt.Import{Subject: "a", Type: jwt.Stream, Account: "x"}, &jwt.Import{Subject: "b", Type: jwt.Stream, Account: "x"})
	})
	lib("limits", "limits-imports-minus-two", func(c *jwt.AccountClaims) { c.Limits.Imports = -2 })
	lib("limits", "limits-exports-minus-two", func(c *jwt.AccountClaims) { c.Limits.Exports = -2 })
	lib("limits", "limits-wildcard-export", func(c *jwt.AccountClaims) {
		c.Limits.Exports, c.Limits.WildcardExports = 5, false
		c.Exports.Add(&jwt.Export{Subject: "a.*", Type: jwt.Stream})
	})
	lib("accept", "limits-wildcard-export-without-limit", func(c *jwt.AccountClaims) {
		c.Limits.WildcardExports = false
		c.Exports.Add(&jwt.Export{Subject: "a.*", Type: jwt.Stream})
	})
	lib("accept", "limits-star-within-token", func(c *jwt.AccountClaims) {
		c.Limits.Exports, c.Limits.WildcardExports = 5, false
		c.Exports.Add(&jwt.Export{Subject: "a*.b>", Type: jwt.Stream}, &jwt.Export{Subject: "a.>.b", Type: jwt.Stream})
	})
	lib("accept", "limits-jetstream", func(c *jwt.AccountClaims) {
		c.Limits.JetStreamLimits = jwt.JetStreamLimits{MemoryStorage: 1 << 30, DiskStorage: -1, Streams: 5, Consumer: 7, MaxAckPending: 9, MemoryMaxStreamBytes: 3, DiskMaxStreamBytes: 4, MaxBytesRequired: true}
	})
	lib("accept", "limits-tiers", func(c *jwt.AccountClaims) {
		c.Limits.JetStreamTieredLimits = jwt.JetStreamTieredLimits{"R1": {DiskStorage: 5}, "R3": {DiskStorage: 6, MaxBytesRequired: true}}
	})
	lib("accept", "limits-tiers-and-flat", func(c *jwt.AccountClaims) {
		c.Limits.DiskStorage = 7
		c.Limits.JetStreamTieredLimits = jwt.JetStreamTieredLimits{"R1": {DiskStorage: 5}}
	})
	lib("tiered-limits", "limits-tier-without-name", func(c *jwt.AccountClaims) {
		c.Limits.JetStreamTieredLimits = jwt.JetStreamTieredLimits{"": {DiskStorage: 5}}
	})
	hand("accept", "limits-tier-null", func(_, nats fields) { nats["limits"] = fields{"tiered_limits": fields{"R1": nil}} })
}

func exports() {
	with := func(ours, name string, list ...*jwt.Export) {
		lib(ours, "export-"+name, func(c *jwt.AccountClaims) { c.Exports = list })
	}
	with("accept", "stream", &jwt.Export{Name: "s", Subject: "a.>", Type: jwt.Stream})
	with("accept", "service", &jwt.Export{Subject: "a.*", Type: jwt.Service, ResponseType: jwt.ResponseTypeSingleton, ResponseThreshold: time.Second, AllowTrace: true})
	with("accept", "service-stream-response", &jwt.Export{Subject: "a", Type: jwt.Service, ResponseType: jwt.ResponseTypeStream})
	with("accept", "service-chunked-response", &jwt.Export{Subject: "a", Type: jwt.Service, ResponseType: jwt.ResponseTypeChunked})
	with("accept", "private", &jwt.Export{Subject: "a", Type: jwt.Stream, TokenReq: true, Advertise: true, Revocations: jwt.RevocationList{"*": 5, "x": 6}})
	with("accept", "info", &jwt.Export{Subject: "a", Type: jwt.Stream, Info: jwt.Info{Description: "d", InfoURL: "https://example.net/a?b#c"}})
	with("accept", "latency-headers", &jwt.Export{Subject: "a", Type: jwt.Service, Latency: &jwt.ServiceLatency{Sampling: jwt.Headers, Results: "l"}})
	with("accept", "latency-percent", &jwt.Export{Subject: "a", Type: jwt.Service, Latency: &jwt.ServiceLatency{Sampling: 100, Results: "l"}})
	with("accept", "token-position", &jwt.Export{Subject: "a.*.b.*", Type: jwt.Service, AccountTokenPosition: 4})
	with("accept", "same-subject-as-stream-and-service", &jwt.Export{Subject: "a", Type: jwt.Service}, &jwt.Export{Subject: "a", Type: jwt.Stream})
	with("accept", "crossing-wildcards", &jwt.Export{Subject: "a.*.c", Type: jwt.Stream}, &jwt.Export{Subject: "a.b.*", Type: jwt.Stream}, &jwt.Export{Subject: "a.b", Type: jwt.Stream})
	with("accept", "longer-below-shorter", &jwt.Export{Subject: "a", Type: jwt.Stream}, &jwt.Export{Subject: "a.>", Type: jwt.Stream})
	with("accept", "odd-characters", &jwt.Export{Subject: "a\tb.ü.$SYS", Type: jwt.Stream})
	hand("export", "export-type-missing", func(_, nats fields) { nats["exports"] = []fields{{"subject": "a"}} })
	hand("export", "export-null", func(_, nats fields) { nats["exports"] = []any{nil} })
	hand("export", "export-null-limited", func(_, nats fields) {
		nats["exports"] = []any{nil}
		nats["limits"] = fields{"exports": 5}
	})
	with("export", "response-type", &jwt.Export{Subject: "a", Type: jwt.Service, ResponseType: "single"})
	with("export", "stream-response-type", &jwt.Export{Subject: "a", Type: jwt.Stream, ResponseType: "Singleton"})
	with("export", "stream-allow-trace", &jwt.Export{Subject: "a", Type: jwt.Stream, AllowTrace: true})
	with("latency", "stream-latency", &jwt.Export{Subject: "a", Type: jwt.Stream, Latency: &jwt.ServiceLatency{Sampling: 5, Results: "l"}})
	hand("latency", "export-latency-sampling-101", func(_, nats fields) {
		nats["exports"] = []fields{{"subject": "a", "type": "service", "service_latency": fields{"sampling": 101, "results": "l"}}}
	})
	hand("latency", "export-latency-sampling-negative", func(_, nats fields) {
		nats["exports"] = []fields{{"subject": "a", "type": "service", "service_latency": fields{"sampling": -1, "results": "l"}}}
	})
	hand("subject", "export-latency-empty", func(_, nats fields) {
		nats["exports"] = []fields{{"subject": "a", "type": "service", "service_latency": fields{}}}
	})
	hand("accept", "export-latency-headers-in-capitals", func(_, nats fields) {
		nats["exports"] = []fields{{"subject": "a", "type": "service", "service_latency": fields{"sampling": "HEADERS", "results": "l"}}}
	})
	with("latency", "latency-wildcard", &jwt.Export{Subject: "a", Type: jwt.Service, Latency: &jwt.ServiceLatency{Sampling: 5, Results: "l.*"}})
	with("export", "threshold-negative", &jwt.Export{Subject: "a", Type: jwt.Service, ResponseThreshold: -1})
	with("export", "stream-threshold", &jwt.Export{Subject: "a", Type: jwt.Stream, ResponseThreshold: 1})
	for name, subject := range map[string]jwt.Subject{"empty": "", "blank": "a b", "leading-dot": ".a", "trailing-dot": "a.", "double-dot": "a..b", "dot": "."} {
		with("subject", "subject-"+name, &jwt.Export{Subject: subject, Type: jwt.Stream})
	}
	with("export", "token-position-without-wildcard", &jwt.Export{Subject: "a.b", Type: jwt.Service, AccountTokenPosition: 1})
	with("export", "token-position-too-far", &jwt.Export{Subject: "a.*", Type: jwt.Service, AccountTokenPosition: 3})
	with("export", "token-position-not-a-star", &jwt.Export{Subject: "a.*", Type: jwt.Service, AccountTokenPosition: 1})
	with("export", "token-position-full-wildcard", &jwt.Export{Subject: "a.>", Type: jwt.Service, AccountTokenPosition: 2})
	with("info", "description-long", &jwt.Export{Subject: "a", Type: jwt.Stream, Info: jwt.Info{Description: strings.Repeat("d", 8193)}})
	with("export-overlap", "twice", &jwt.Export{Subject: "a", Type: jwt.Stream}, &jwt.Export{Subject: "a", Type: jwt.Stream})
	with("export-overlap", "below-full-wildcard", &jwt.Export{Subject: "a.b", Type: jwt.Service}, &jwt.Export{Subject: "a.>", Type: jwt.Service})
	with("export-overlap", "below-star", &jwt.Export{Subject: "a.*.c", Type: jwt.Stream}, &jwt.Export{Subject: "a.b.c", Type: jwt.Stream})
	with("export-overlap", "full-below-star", &jwt.Export{Subject: "a.*", Type: jwt.Stream}, &jwt.Export{Subject: "a.>", Type: jwt.Stream})
	with("export-overlap", "everything", &jwt.Export{Subject: ">", Type: jwt.Stream}, &jwt.Export{Subject: "z", Type: jwt.Stream})
	many := func(last string) []*jwt.Export {
		var list []*jwt.Export
		for i := range 200 {
			list = append(list, &jwt.Export{Subject: jwt.Subject(fmt.Sprintf("orders.%d.*", i)), Type: jwt.Service})
		}
		return append(list, &jwt.Export{Subject: jwt.Subject(last), Type: jwt.Service})
	}
	with("accept", "many", many("orders.200.*")...)
	with("export-overlap", "one-of-many", many("orders.7.x")...)
}

func imports() {
	from := key(nkeys.PrefixByteAccount)
	with := func(ours, name string, list ...*jwt.Import) {
		for _, i := range list {
			if i.Account == "" {
				i.Account = from
			}
		}
		lib(ours, "import-"+name, func(c *jwt.AccountClaims) { c.Imports = list })
	}
	with("accept", "stream", &jwt.Import{Name: "i", Subject: "a.>", Type: jwt.Stream, AllowTrace: true})
	with("accept", "service", &jwt.Import{Subject: "a", Type: jwt.Service, Share: true})
	with("accept", "account-not-a-key", &jwt.Import{Subject: "a", Type: jwt.Stream, Account: "payments"})
	with("accept", "local-subject", &jwt.Import{Subject: "a.*.b.*", Type: jwt.Service, LocalSubject: "l.$2.$1"})
	with("accept", "local-subject-star", &jwt.Import{Subject: "a.*", Type: jwt.Stream, LocalSubject: "*.a"})
	with("accept", "local-subject-full", &jwt.Import{Subject: "a.>", Type: jwt.Stream, LocalSubject: "l.>"})
	with("accept", "local-subject-dollar", &jwt.Import{Subject: "a", Type: jwt.Stream, LocalSubject: "$JS.$x"})
	with("accept", "local-subject-signed-reference", &jwt.Import{Subject: "a.*", Type: jwt.Stream, LocalSubject: "l.$+1"})
	with("accept", "local-subject-negative-reference", &jwt.Import{Subject: "a.*", Type: jwt.Stream, LocalSubject: "l.$-1"})
	with("accept", "to", &jwt.Import{Subject: "a", To: "b", Type: jwt.Service})
	with("accept", "same-subject-from-two-accounts", &jwt.Import{Subject: "a", Type: jwt.Service}, &jwt.Import{Subject: "a", Type: jwt.Service, Account: key(nkeys.PrefixByteAccount)})
	with("accept", "overlapping-streams", &jwt.Import{Subject: "a.>", Type: jwt.Stream}, &jwt.Import{Subject: "a.b", Type: jwt.Stream})
	with("accept", "apart-by-local-subject", &jwt.Import{Subject: "a", Type: jwt.Service, LocalSubject: "x"}, &jwt.Import{Subject: "a", Type: jwt.Service, LocalSubject: "y"})
	hand("import", "import-null", func(_, nats fields) { nats["imports"] = []any{nil} })
	hand("import", "import-type-missing", func(_, nats fields) { nats["imports"] = []fields{{"subject": "a", "account": from}} })
	hand("import", "import-account-missing", func(_, nats fields) { nats["imports"] = []fields{{"subject": "a", "type": "stream"}} })
	with("subject", "subject-empty", &jwt.Import{Subject: "", Type: jwt.Stream})
	with("subject", "subject-blank", &jwt.Import{Subject: "a b", Type: jwt.Stream})
	with("import", "share-stream", &jwt.Import{Subject: "a", Type: jwt.Stream, Share: true})
	with("import", "trace-service", &jwt.Import{Subject: "a", Type: jwt.Service, AllowTrace: true})
	with("import", "local-subject-and-to", &jwt.Import{Subject: "a", To: "b", LocalSubject: "c", Type: jwt.Service})
	with("import-renaming", "local-subject-full-one-side", &jwt.Import{Subject: "a.>", Type: jwt.Stream, LocalSubject: "l"})
	with("import-renaming", "local-subject-reference-too-high", &jwt.Import{Subject: "a.*", Type: jwt.Stream, LocalSubject: "l.$2"})
	with("import-renaming", "local-subject-too-few", &jwt.Import{Subject: "a.*.*", Type: jwt.Stream, LocalSubject: "l.$1"})
	with("import-renaming", "local-subject-too-many", &jwt.Import{Subject: "a", Type: jwt.Stream, LocalSubject: "l.*"})
	with("subject", "local-subject-blank", &jwt.Import{Subject: "a", Type: jwt.Stream, LocalSubject: "l m"})
	with("subject", "local-subject-double-dot", &jwt.Import{Subject: "a", Type: jwt.Stream, LocalSubject: "l..m"})
	with("import-overlap", "twice", &jwt.Import{Subject: "a", Type: jwt.Service}, &jwt.Import{Subject: "a", Type: jwt.Service})
	with("import-overlap", "contained", &jwt.Import{Subject: "a.b", Type: jwt.Service}, &jwt.Import{Subject: "a.*", Type: jwt.Service})
	with("import-overlap", "by-local-subject", &jwt.Import{Subject: "a.*", LocalSubject: "x.$1", Type: jwt.Service}, &jwt.Import{Subject: "b", LocalSubject: "x.y", Type: jwt.Service})
	with("import-overlap", "by-to", &jwt.Import{Subject: "a", To: "x", Type: jwt.Service}, &jwt.Import{Subject: "x", Type: jwt.Service})
}

// Imports with an activation token.
func activations() {
	exporter, signer := pair(nkeys.PrefixByteAccount), pair(nkeys.PrefixByteAccount)
	grant := func(account string, kp nkeys.KeyPair, change func(*jwt.ActivationClaims)) string {
		claims := jwt.NewActivationClaims(account)
		claims.ImportSubject, claims.ImportType = "a.>", jwt.Stream
		if change != nil {
			change(claims)
		}
		token, err := claims.Encode(kp)
		check(err)
		return token
	}
	with := func(ours, name string, make func(account string) string, change func(*jwt.Import)) {
		lib(ours, "activation-"+name, func(c *jwt.AccountClaims) {
			i := &jwt.Import{Subject: "a.b", Type: jwt.Stream, Account: public(exporter), Token: make(c.Subject)}
			if change != nil {
				change(i)
			}
			c.Imports.Add(i)
		})
	}
	simple := func(change func(*jwt.ActivationClaims)) func(string) string {
		return func(account string) string { return grant(account, exporter, change) }
	}
	with("accept", "by-identity", simple(nil), nil)
	with("accept", "by-signing-key", func(account string) string {
		return grant(account, signer, func(c *jwt.ActivationClaims) { c.IssuerAccount = public(exporter) })
	}, nil)
	with("accept", "expired", simple(func(c *jwt.ActivationClaims) { c.Expires = 1 }), nil)
	with("accept", "newline-at-the-end", func(account string) string { return grant(account, exporter, nil) + "\n" }, nil)
	with("accept", "service", simple(func(c *jwt.ActivationClaims) { c.ImportType = jwt.Service }), func(i *jwt.Import) { i.Type = jwt.Service })
	with("accept", "service-to", simple(func(c *jwt.ActivationClaims) { c.ImportType = jwt.Service }), func(i *jwt.Import) {
		i.Type, i.Subject, i.To = jwt.Service, "x.y", "a.b"
	})
	with("accept", "version-1", func(account string) string {
		return rawV1(exporter, headerV1, text(fields{"iss": public(exporter), "sub": account, "type": "activation", "iat": 1, "nats": fields{"subject": "a.>", "type": "stream", "max": -1}}))
	}, nil)
	with("accept", "version-1-by-signing-key", func(account string) string {
		return rawV1(signer, headerV1, text(fields{"iss": public(signer), "issuer_account": public(exporter), "sub": account, "type": "activation", "nats": fields{"subject": "a.>", "type": "stream"}}))
	}, nil)
	with("activation", "garbage", func(string) string { return "eyJhbGciOi.x.y" }, nil)
	with("activation", "url", func(string) string { return "https://host.example/jwt/v1/activations/ABC" }, nil)
	with("activation", "changed", func(account string) string {
		token := grant(account, exporter, nil)
		return token[:len(token)-30] + string(other(token[len(token)-30])) + token[len(token)-29:]
	}, nil)
	with("activation", "user-token", func(string) string {
		token, err := jwt.NewUserClaims(key(nkeys.PrefixByteUser)).Encode(exporter)
		check(err)
		return token
	}, nil)
	with("activation", "by-another-account", func(account string) string { return grant(account, signer, nil) }, nil)
	with("activation", "for-another-account", func(string) string { return grant(key(nkeys.PrefixByteAccount), exporter, nil) }, nil)
	with("activation", "other-type", simple(func(c *jwt.ActivationClaims) { c.ImportType = jwt.Service }), nil)
	with("activation", "other-subject", simple(nil), func(i *jwt.Import) { i.Subject = "b" })
	with("activation", "wider-subject", simple(func(c *jwt.ActivationClaims) { c.ImportSubject = "a.b" }), func(i *jwt.Import) { i.Subject = "a.>" })
	with("activation", "issuer-account-not-a-key", func(account string) string {
		return grant(account, exporter, func(c *jwt.ActivationClaims) { c.IssuerAccount = "x" })
	}, nil)
	with("activation", "duplicate-key", func(account string) string {
		return raw(exporter, headerV2, `{"iss":"`+public(exporter)+`","sub":"x","sub":"`+account+`","nats":{"subject":"a.>","kind":"stream","type":"activation","version":2}}`)
	}, nil)
	with("activation", "without-type", func(account string) string {
		return raw(exporter, headerV2, `{"iss":"`+public(exporter)+`","sub":"`+account+`","nats":{"subject":"a.>","type":"activation","version":2}}`)
	}, nil)
	with("subject", "empty-subject", func(account string) string {
		return raw(exporter, headerV2, `{"iss":"`+public(exporter)+`","sub":"`+account+`","nats":{"kind":"stream","type":"activation","version":2}}`)
	}, nil)
	with("activation", "version-3", func(account string) string {
		return raw(exporter, headerV2, `{"iss":"`+public(exporter)+`","sub":"`+account+`","nats":{"subject":"a.>","kind":"stream","type":"activation","version":3}}`)
	}, nil)
	with("activation", "by-user", func(account string) string {
		user := pair(nkeys.PrefixByteUser)
		return raw(user, headerV2, `{"iss":"`+public(user)+`","sub":"`+account+`","nats":{"subject":"a.>","kind":"stream","issuer_account":"`+public(exporter)+`","type":"activation","version":2}}`)
	}, nil)
	with("accept", "by-operator", func(account string) string {
		return grant(account, plain.identity, func(c *jwt.ActivationClaims) { c.IssuerAccount = public(exporter) })
	}, nil)
}

// Permissions, mappings, authorization, trace, texts.
func settings() {
	lib("accept", "permissions", func(c *jwt.AccountClaims) {
		c.DefaultPermissions.Pub.Allow.Add("a.>", "b.*")
		c.DefaultPermissions.Pub.Deny.Add("c")
		c.DefaultPermissions.Sub.Allow.Add("a.> queue", "b")
		c.DefaultPermissions.Resp = &jwt.ResponsePermission{MaxMsgs: 1, Expires: time.Second}
	})
	lib("permission", "permission-queue-in-pub", func(c *jwt.AccountClaims) { c.DefaultPermissions.Pub.Allow.Add("a q") })
	lib("permission", "permission-blanks", func(c *jwt.AccountClaims) { c.DefaultPermissions.Sub.Deny.Add("a q r") })
	lib("subject", "permission-double-dot", func(c *jwt.AccountClaims) { c.DefaultPermissions.Sub.Allow.Add("a..b") })
	lib("subject", "permission-trailing-blank", func(c *jwt.AccountClaims) { c.DefaultPermissions.Sub.Allow.Add("a ") })
	hand("subject", "permission-null", func(_, nats fields) { nats["default_permissions"] = fields{"pub": fields{"allow": []any{nil}}} })

	mapping := func(ours, name string, to ...jwt.WeightedMapping) {
		lib(ours, "mapping-"+name, func(c *jwt.AccountClaims) { c.AddMapping("from.*", to...) })
	}
	mapping("accept", "one", jwt.WeightedMapping{Subject: "to.$1"})
	mapping("accept", "weights", jwt.WeightedMapping{Subject: "a.$1", Weight: 60}, jwt.WeightedMapping{Subject: "b.$1", Weight: 40})
	mapping("accept", "clusters", jwt.WeightedMapping{Subject: "a", Weight: 100}, jwt.WeightedMapping{Subject: "b", Weight: 100, Cluster: "x"}, jwt.WeightedMapping{Subject: "b", Weight: 100, Cluster: "y"})
	mapping("accept", "none")
	mapping("mapping", "weight-101", jwt.WeightedMapping{Subject: "a", Weight: 101})
	mapping("mapping", "sum", jwt.WeightedMapping{Subject: "a", Weight: 60}, jwt.WeightedMapping{Subject: "b", Weight: 41})
	mapping("mapping", "sum-of-default-weight", jwt.WeightedMapping{Subject: "a"}, jwt.WeightedMapping{Subject: "b", Weight: 1})
	mapping("mapping", "sum-in-cluster", jwt.WeightedMapping{Subject: "a", Weight: 60, Cluster: "x"}, jwt.WeightedMapping{Subject: "b", Weight: 41, Cluster: "x"})
	mapping("subject", "target-empty", jwt.WeightedMapping{Weight: 5})
	lib("subject", "mapping-source", func(c *jwt.AccountClaims) { c.AddMapping("a b", jwt.WeightedMapping{Subject: "c"}) })

	user, account := key(nkeys.PrefixByteUser), key(nkeys.PrefixByteAccount)
	callout := func(ours, name string, with jwt.ExternalAuthorization) {
		lib(ours, "authorization-"+name, func(c *jwt.AccountClaims) { c.Authorization = with })
	}
	callout("accept", "users", jwt.ExternalAuthorization{AuthUsers: jwt.StringList{user}})
	callout("accept", "any-account", jwt.ExternalAuthorization{AuthUsers: jwt.StringList{user}, AllowedAccounts: jwt.StringList{"*"}})
	callout("accept", "accounts-and-xkey", jwt.ExternalAuthorization{AuthUsers: jwt.StringList{user}, AllowedAccounts: jwt.StringList{account, account}, XKey: curve()})
	callout("authorization", "accounts-without-users", jwt.ExternalAuthorization{AllowedAccounts: jwt.StringList{account}})
	callout("authorization", "user-is-account", jwt.ExternalAuthorization{AuthUsers: jwt.StringList{account}})
	callout("authorization", "account-is-user", jwt.ExternalAuthorization{AuthUsers: jwt.StringList{user}, AllowedAccounts: jwt.StringList{user}})
	callout("authorization", "star-and-others", jwt.ExternalAuthorization{AuthUsers: jwt.StringList{user}, AllowedAccounts: jwt.StringList{"*", account}})
	callout("authorization", "xkey-is-account", jwt.ExternalAuthorization{AuthUsers: jwt.StringList{user}, XKey: account})

	trace := func(ours, name string, with jwt.MsgTrace) {
		lib(ours, "trace-"+name, func(c *jwt.AccountClaims) { c.Trace = &with })
	}
	trace("accept", "full", jwt.MsgTrace{Destination: "a.b", Sampling: 100})
	trace("accept", "without-sampling", jwt.MsgTrace{Destination: "a.b"})
	trace("subject", "without-destination", jwt.MsgTrace{Sampling: 5})
	trace("subject", "destination-blank", jwt.MsgTrace{Destination: "a b"})
	trace("trace", "destination-wildcard", jwt.MsgTrace{Destination: "a.>"})
	trace("trace", "sampling-101", jwt.MsgTrace{Destination: "a", Sampling: 101})
	trace("trace", "sampling-negative", jwt.MsgTrace{Destination: "a", Sampling: -1})

	lib("accept", "cluster-traffic-owner", func(c *jwt.AccountClaims) { c.ClusterTraffic = "owner" })
	lib("accept", "cluster-traffic-system", func(c *jwt.AccountClaims) { c.ClusterTraffic = "system" })
	lib("cluster-traffic", "cluster-traffic-other", func(c *jwt.AccountClaims) { c.ClusterTraffic = "Owner" })
	lib("accept", "tags", func(c *jwt.AccountClaims) { c.Tags.Add("a", "b:c") })
	lib("accept", "description-longest", func(c *jwt.AccountClaims) { c.Description = strings.Repeat("d", 8192) })
	lib("info", "description-too-long", func(c *jwt.AccountClaims) { c.Description = strings.Repeat("d", 8193) })
	lib("info", "info-url-too-long", func(c *jwt.AccountClaims) { c.InfoURL = "https://e.net/" + strings.Repeat("d", 8192) })
	for name, url := range map[string]string{
		"plain": "https://example.net", "port": "https://example.net:8443/a", "ipv6": "https://[::1]:80/x", "zone": "https://[fe80::1%25en0]/",
		"user": "https://u:p@example.net", "other-scheme": "nats://example.net", "query": "http://e.net?a=b%zz", "colon-only": "http://e.net:",
		"not-ascii": "http://exämple.net/ü", "blank-in-path": "http://e.net/a b", "escape": "http://e.net/%41", "scheme-capitals": "HTTP://e.net",
		"escaped-host": "http://e%C3%A4.net/", "angle-brackets": "http://<e>.net/", "fragment": "http://e.net/#%41", "many-ports-other-scheme": "nats://a:1,b:2",
	} {
		lib("accept", "info-url-"+name, func(c *jwt.AccountClaims) { c.InfoURL = url })
	}
	for name, url := range map[string]string{
		"no-scheme": "example.net/a", "no-host": "https:///a", "opaque": "mailto:a@example.net", "path": "/a", "blank-in-host": "http://a b.net/",
		"bad-port": "http://e.net:x/", "bad-escape": "http://e.net/%zz", "bad-bracket": "http://[::1", "control": "http://e.net/\u0001", "empty-scheme": "://e.net",
		"port-only": "http://:80/", "two-ports": "http://e.net:80:80/", "bracket-name": "http://[e.net]/", "escaped-ascii-host": "http://%41.net/",
		"bad-fragment": "http://e.net/#%zz", "bad-user": "http://a b@e.net/", "first-digit-scheme": "1http://e.net/", "star": "*", "backslash": "http://e\\x.net/",
		"bracket-later": "http://e[::1]/", "after-bracket": "http://[::1]x/", "ipv4-bracket": "http://[127.0.0.1]/", "cut-escape": "http://e.net/%4",
	} {
		lib("info", "info-url-"+name, func(c *jwt.AccountClaims) { c.InfoURL = url })
	}
	lib("accept", "revocations", func(c *jwt.AccountClaims) {
		c.Revocations = jwt.RevocationList{"*": 5, user: 1700000000, "not a key": -7}
	})
	hand("accept", "revocation-null", func(_, nats fields) { nats["revocations"] = fields{user: nil} })
}

func signingKeys() {
	a, b := key(nkeys.PrefixByteAccount), key(nkeys.PrefixByteAccount)
	lib("accept", "signing-keys", func(c *jwt.AccountClaims) { c.SigningKeys.Add(a, b) })
	scoped := func(c *jwt.AccountClaims) *jwt.UserScope {
		scope := jwt.NewUserScope()
		scope.Key, scope.Role, scope.Description = a, "reader", "d"
		c.SigningKeys.AddScopedSigner(scope)
		return scope
	}
	lib("accept", "signing-key-scoped", func(c *jwt.AccountClaims) { scoped(c) })
	lib("accept", "signing-key-template", func(c *jwt.AccountClaims) {
		t := &scoped(c).Template
		t.Pub.Allow.Add("a.{{name()}}.>")
		t.Sub.Deny.Add("b q r s", "..")
		t.Resp = &jwt.ResponsePermission{MaxMsgs: -1, Expires: 5}
		t.Src.Add("10.0.0.0/8", "nonsense")
		t.Times = []jwt.TimeRange{{Start: "08:00:00", End: "nonsense"}}
		t.Locale, t.BearerToken, t.ProxyRequired = "Nowhere/Here", true, true
		t.AllowedConnectionTypes.Add("WEBSOCKET", "nonsense")
	})
	with := func(ours, name string, list ...any) {
		hand(ours, "signing-key-"+name, func(_, nats fields) { nats["signing_keys"] = list })
	}
	with("accept", "other-types-passed-over", a, 5, true, nil, []any{"x"})
	with("accept", "twice", a, a, b)
	with("accept", "plain-and-scoped", a, fields{"kind": "user_scope", "key": a})
	with("accept", "template-src-text", fields{"kind": "user_scope", "key": a, "template": fields{"src": "10.0.0.0/8,::1/128"}})
	spelt("accept", "signing-key-template-floats", `"type":"account"`, `"signing_keys":[{"kind":"user_scope","key":"`+a+`","template":{"subs":1e3,"data":5.0,"payload":-1}}],"type":"account"`)
	with("signing-key", "operator", key(nkeys.PrefixByteOperator))
	with("signing-key", "user", key(nkeys.PrefixByteUser))
	with("signing-key", "empty", "")
	with("signing-key", "word", "backup")
	with("signing-key", "newline", a+"\n")
	with("signing-key", "scoped-without-key", fields{"kind": "user_scope"})
	with("signing-key", "scoped-user", fields{"kind": "user_scope", "key": key(nkeys.PrefixByteUser)})
	// The neutral element of the curve: anyone can forge signatures under this key.
	small, err := nkeys.Encode(nkeys.PrefixByteAccount, append([]byte{1}, make([]byte, 31)...))
	check(err)
	with("signing-key", "small-order", string(small))
}

// Tokens of version 1: another signature rule, and the type at the top level.
func versionOne() {
	v1 := func(change func(top, nats fields)) string {
		top, nats := base()
		delete(nats, "type")
		delete(nats, "version")
		top["type"] = "account"
		if change != nil {
			change(top, nats)
		}
		return rawV1(plain.identity, headerV1, text(top))
	}
	one := func(ours, name string, change func(top, nats fields)) { put(ours, "v1-"+name, "account", v1(change)) }
	one("accept", "plain", nil)
	one("accept", "signing-keys", func(_, nats fields) { nats["signing_keys"] = []string{key(nkeys.PrefixByteAccount)} })
	one("accept", "revocations", func(_, nats fields) { nats["revocations"] = fields{"*": 5} })
	one("accept", "exports", func(_, nats fields) { nats["exports"] = []fields{{"subject": "a.>", "type": "stream"}} })
	one("accept", "fields-of-version-2-unread", func(_, nats fields) {
		nats["mappings"], nats["trace"], nats["description"] = "nonsense", 7, strings.Repeat("d", 9000)
		nats["limits"].(fields)["tiered_limits"] = "nonsense"
	})
	one("accept", "version-2-beside", func(_, nats fields) { nats["version"], nats["type"] = 2, "user" })
	one("accept", "tags", func(top, _ fields) { top["tags"], top["issuer_account"] = []string{"a"}, "x" })
	one("signing-key", "signing-key-empty", func(_, nats fields) { nats["signing_keys"] = []string{""} })
	one("field-type", "signing-key-scoped", func(_, nats fields) { nats["signing_keys"] = []fields{{"kind": "user_scope"}} })
	one("field-type", "tags-text", func(top, _ fields) { top["tags"] = "a" })
	one("field-type", "version-text", func(_, nats fields) { nats["version"] = "1" })
	one("limits", "exports-exceeded", func(_, nats fields) {
		nats["limits"] = fields{"exports": 0}
		nats["exports"] = []fields{{"subject": "a", "type": "stream"}}
	})
	one("export-overlap", "overlap", func(_, nats fields) {
		nats["exports"] = []fields{{"subject": "a.>", "type": "stream"}, {"subject": "a.b", "type": "stream"}}
	})
	one("expired", "expired", func(top, _ fields) { top["exp"] = 1 })
	one("kind", "user", func(top, _ fields) { top["type"] = "user" })
	one("kind", "revocation", func(top, _ fields) { top["type"] = "revocation" })
	top, nats := base()
	delete(nats, "type")
	top["type"] = "account"
	put("signature", "v1-claims-signed-by-the-new-rule", "account", raw(plain.identity, headerV1, text(top)))
	put("accept", "v1-claims-under-the-new-header", "account", rawV1(plain.identity, headerV2, text(top)))
	top, _ = base()
	put("signature", "v2-claims-signed-by-the-old-rule", "account", rawV1(plain.identity, headerV1, text(top)))
}

func operatorTokens() {
	kp := pair(nkeys.PrefixByteOperator)
	with := func(ours, name string, change func(*jwt.OperatorClaims)) {
		claims := jwt.NewOperatorClaims(public(kp))
		claims.Name = "O"
		if change != nil {
			change(claims)
		}
		token, err := claims.Encode(kp)
		check(err)
		put(ours, "operator-"+name, "operator", token)
	}
	with("accept", "plain", nil)
	with("accept", "full", func(c *jwt.OperatorClaims) {
		c.SigningKeys.Add(key(nkeys.PrefixByteOperator))
		c.SystemAccount, c.StrictSigningKeyUsage = key(nkeys.PrefixByteAccount), true
		c.AccountServerURL, c.AssertServerVersion = "https://resolver.example.net:9090/jwt/v1", "2.10.0"
		c.OperatorServiceURLs.Add("nats://n.example.net:4222", "tls://n", "wss://n")
	})
	with("accept", "expired", func(c *jwt.OperatorClaims) { c.Expires = 1 })
	with("signing-key", "signing-key-is-account", func(c *jwt.OperatorClaims) { c.SigningKeys.Add(key(nkeys.PrefixByteAccount)) })
	with("system-account", "system-account-is-user", func(c *jwt.OperatorClaims) { c.SystemAccount = key(nkeys.PrefixByteUser) })
	with("operator-version", "version-of-two", func(c *jwt.OperatorClaims) { c.AssertServerVersion = "2.10" })
	with("operator-version", "version-negative", func(c *jwt.OperatorClaims) { c.AssertServerVersion = "2.-1.0" })
	// The library refuses these URLs, but nats-server reads the one only where it has no resolver, and the others never.
	for name, url := range map[string]string{"scheme": "https://n:4222", "credentials": "nats://u:p@n:4222", "path": "nats://n:4222/", "none": "n"} {
		with("accept", "service-url-"+name, func(c *jwt.OperatorClaims) { c.OperatorServiceURLs.Add(url) })
	}
	for name, url := range map[string]string{"without-scheme": "resolver.example.net/jwt/v1", "colon": "://x", "escape": "https://x/%"} {
		put("accept", "operator-account-server-url-"+name, "operator", raw(kp, headerV2, text(fields{
			"iss": public(kp), "sub": public(kp), "nats": fields{"type": "operator", "version": 2, "account_server_url": url},
		})))
	}
	put("accept", "operator-account-server-url-nats", "operator", raw(kp, headerV2, text(fields{
		"iss": public(kp), "sub": public(kp), "nats": fields{"type": "operator", "version": 2, "account_server_url": "nats://n:4222"},
	})))
	put("subject", "operator-subject-missing", "operator", raw(kp, headerV2, text(fields{"iss": public(kp), "nats": fields{"type": "operator", "version": 2}})))
	put("field-type", "operator-strict-text", "operator", raw(kp, headerV2, text(fields{
		"iss": public(kp), "sub": public(kp), "nats": fields{"type": "operator", "version": 2, "strict_signing_key_usage": "true"},
	})))
	put("kind", "operator-wanted-account-sent", "operator", accountOf(plain.identity, nil))
	claims := jwt.NewOperatorClaims(public(kp))
	token, err := claims.Encode(pair(nkeys.PrefixByteOperator))
	check(err)
	put("issuer-kind", "operator-not-self-signed", "operator", token)
	put("accept", "operator-v1", "operator", rawV1(kp, headerV1, text(fields{"iss": public(kp), "sub": public(kp), "type": "operator", "iat": 1, "name": "O", "nats": fields{"signing_keys": []string{key(nkeys.PrefixByteOperator)}}})))
	put("accept", "operator-v1-strict-unread", "operator", rawV1(kp, headerV1, text(fields{"iss": public(kp), "sub": public(kp), "type": "operator", "nats": fields{"strict_signing_key_usage": "nonsense"}})))
	put("signature", "operator-changed", "operator", strings.Replace(plain.token, strings.Split(plain.token, ".")[1], b64(`{"iss":"`+public(kp)+`","sub":"`+public(kp)+`","nats":{"type":"operator","version":2}}`), 1))
}
