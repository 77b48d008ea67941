package main

import (
	"encoding/base64"
	"fmt"
	"strings"

	"github.com/nats-io/jwt/v2"
	"github.com/nats-io/nkeys"
)

// Tokens by different signers.
func signers() {
	put("accept", "signed-by-identity", "account", accountOf(plain.identity, nil))
	put("accept", "signed-by-signing-key", "account", accountOf(plain.signing, nil))
	put("accept", "strict-signed-by-signing-key", "account", accountOf(operators["strict"].signing, nil), "strict")
	put("accept", "second-of-two-operators", "account", accountOf(operators["other"].identity, nil), "plain", "other")
	put("accept", "strict-beside-plain", "account", accountOf(plain.identity, nil), "strict", "plain")
	put("strict", "strict-signed-by-identity", "account", accountOf(operators["strict"].identity, nil), "strict")
	put("strict", "strict-signed-by-identity-beside-plain", "account", accountOf(operators["strict"].identity, nil), "plain", "strict")
	put("untrusted", "other-operator", "account", accountOf(operators["other"].identity, nil))
	put("untrusted", "other-operators-signing-key", "account", accountOf(operators["other"].signing, nil))
	put("untrusted", "unknown-operator", "account", accountOf(pair(nkeys.PrefixByteOperator), nil))
	put("untrusted", "another-account", "account", accountOf(pair(nkeys.PrefixByteAccount), nil))

	self := pair(nkeys.PrefixByteAccount)
	claims := jwt.NewAccountClaims(public(self))
	token, err := claims.Encode(self)
	check(err)
	put("self-signed", "self-signed", "account", token)

	for name, prefix := range map[string]nkeys.PrefixByte{"user": nkeys.PrefixByteUser, "server": nkeys.PrefixByteServer, "cluster": nkeys.PrefixByteCluster} {
		kp := pair(prefix)
		top, _ := base()
		top["iss"] = public(kp)
		put("issuer-kind", "issued-by-"+name, "account", raw(kp, headerV2, text(top)))
	}
	for name, issuer := range map[string]any{
		"uuid": "7d444840-9dc0-11d1-b245-5ffdce74fad2", "word": "sso", "empty": "", "url": "https://login.example.net/",
		"broken-checksum": strings.Replace(public(plain.identity), public(plain.identity)[20:24], "AAAA", 1),
		"lower-case":      strings.ToLower(public(plain.identity)), "cut": public(plain.identity)[:55], "null": nil,
	} {
		hand("issuer-not-key", "issuer-"+name, func(top, _ fields) { top["iss"] = issuer })
	}
	hand("issuer-not-key", "issuer-missing", func(top, _ fields) { delete(top, "iss") })
	hand("issuer-not-key", "issuer-with-newline", func(top, _ fields) { top["iss"] = public(plain.identity) + "\n" })
	put("signature", "signed-by-somebody-else", "account", func() string {
		top, _ := base()
		return raw(pair(nkeys.PrefixByteOperator), headerV2, text(top))
	}())

	for name, subject := range map[string]any{
		"operator": key(nkeys.PrefixByteOperator), "user": key(nkeys.PrefixByteUser), "empty": "", "word": "payments", "null": nil,
		"server": key(nkeys.PrefixByteServer), "newline": key(nkeys.PrefixByteAccount) + "\n",
	} {
		hand("subject", "subject-"+name, func(top, _ fields) { top["sub"] = subject })
	}
	hand("subject", "subject-missing", func(top, _ fields) { delete(top, "sub") })
}

// Line ends, decoration, number of parts, base64 and signature.
func shapes() {
	good := accountOf(plain.identity, nil)
	chunks := strings.Split(good, ".")
	put("accept", "newline-at-the-end", "account", good+"\n")
	put("accept", "crlf-at-the-end", "account", good+"\r\n")
	put("empty", "empty", "account", "")
	put("empty", "only-newline", "account", "\n")
	put("chunks", "two-chunks", "account", chunks[0]+"."+chunks[1])
	put("chunks", "four-chunks", "account", good+".AAAA")
	put("chunks", "one-chunk", "account", chunks[1])
	put("chunks", "public-key", "account", key(nkeys.PrefixByteAccount))
	put("other-format", "claims-not-encoded", "account", `{"sub":"A","nats":{}}`)
	decorated, err := jwt.DecorateJWT(good)
	check(err)
	put("decorated", "decorated", "account", string(decorated))
	put("base64", "blank-at-the-end", "account", good+" ")
	put("base64", "blank-in-front", "account", " "+good)
	put("base64", "newline-in-front", "account", "\n"+good)
	put("base64", "newline-in-header", "account", good[:10]+"\n"+good[10:])
	put("base64", "newline-in-claims-after-signing", "account", good[:100]+"\n"+good[100:])
	signed := chunks[0] + "." + chunks[1][:40] + "\n" + chunks[1][40:]
	put("base64", "newline-in-claims-before-signing", "account", signed+"."+sign(plain.identity, signed))
	put("base64", "newline-in-signature", "account", good[:len(good)-20]+"\n"+good[len(good)-20:])
	put("base64", "nul", "account", good[:50]+"\x00"+good[51:])
	put("base64", "not-ascii", "account", good[:50]+"é"+good[51:])
	put("base64", "one-left-over", "account", good[:len(good)-1])
	put("base64", "padded-signature", "account", good+"==")
	put("base64", "padded-claims", "account", chunks[0]+"."+base64.URLEncoding.EncodeToString([]byte(`{"sub":""}`))+"."+chunks[2])
	for {
		if token := accountOf(plain.identity, nil); strings.ContainsAny(token[strings.LastIndex(token, "."):], "-_") {
			put("base64", "standard-alphabet", "account", strings.NewReplacer("-", "+", "_", "/").Replace(token))
			break
		}
	}
	// 64 bytes leave four unused bits in the last character.
	last := strings.IndexByte(alphabet, good[len(good)-1])
	put("base64", "unused-bits-of-signature", "account", good[:len(good)-1]+alphabet[last|1:][:1])

	put("signature", "signature-empty", "account", chunks[0]+"."+chunks[1]+".")
	put("signature", "signature-short", "account", good[:len(good)-2])
	put("signature", "signature-long", "account", good+"AA")
	put("signature", "signature-zero", "account", chunks[0]+"."+chunks[1]+"."+strings.Repeat("A", 86))
	for _, at := range []int{0, 20, 43, 84} {
		flipped := []byte(chunks[2])
		flipped[at] = other(flipped[at])
		put("signature", fmt.Sprintf("signature-changed-at-%d", at), "account", chunks[0]+"."+chunks[1]+"."+string(flipped))
	}
	renamed := strings.Replace(decode(chunks[1]), `"name":"A"`, `"name":"B"`, 1)
	put("signature", "claims-changed", "account", chunks[0]+"."+b64(renamed)+"."+chunks[2])
	put("signature", "header-changed", "account", b64(`{"typ":"JWT","alg":"ed25519-nkey","kid":"1"}`)+"."+chunks[1]+"."+chunks[2])
	put("signature", "signature-of-another-token", "account", chunks[0]+"."+chunks[1]+"."+strings.Split(accountOf(plain.identity, nil), ".")[2])
	// S + L instead of S: the same point, another encoding. Both sides must refuse it.
	put("signature", "signature-malleated", "account", chunks[0]+"."+chunks[1]+"."+malleated(chunks[2]))
}

const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"

func other(c byte) byte {
	return alphabet[(strings.IndexByte(alphabet, c)+1)%64]
}

func decode(chunk string) string {
	data, err := base64.RawURLEncoding.DecodeString(chunk)
	check(err)
	return string(data)
}

func malleated(chunk string) string {
	order := []byte{0xed, 0xd3, 0xf5, 0x5c, 0x1a, 0x63, 0x12, 0x58, 0xd6, 0x9c, 0xf7, 0xa2, 0xde, 0xf9, 0xde, 0x14, 31: 0x10}
	sig := []byte(decode(chunk))
	carry := 0
	for i := range 32 {
		sum := int(sig[32+i]) + int(order[i]) + carry
		sig[32+i], carry = byte(sum), sum>>8
	}
	return base64.RawURLEncoding.EncodeToString(sig)
}

func headers() {
	top, _ := base()
	claims := text(top)
	for name, header := range map[string]string{
		"typ-lower-case": `{"typ":"jwt","alg":"ed25519-nkey"}`, "alg-mixed-case": `{"typ":"JWT","alg":"Ed25519-NKEY"}`,
		"alg-of-version-1": `{"typ":"JWT","alg":"ed25519"}`, "more-fields": `{"typ":"JWT","alg":"ed25519-nkey","kid":"x","crit":["y"]}`,
		"other-order": `{"alg":"ed25519-nkey","typ":"JWT"}`, "blanks": " { \"typ\" : \"JWT\",\n\"alg\":\"ed25519-nkey\" }\n",
	} {
		put("accept", "header-"+name, "account", raw(plain.identity, header, claims))
	}
	for name, header := range map[string]string{
		"hs256": `{"typ":"JWT","alg":"HS256"}`, "eddsa": `{"typ":"JWT","alg":"EdDSA"}`, "none": `{"typ":"JWT","alg":"none"}`,
		"alg-longer": `{"typ":"JWT","alg":"ed25519-nkey2"}`, "typ-jws": `{"typ":"JWS","alg":"ed25519-nkey"}`, "no-typ": `{"alg":"ed25519-nkey"}`,
		"no-alg": `{"typ":"JWT"}`, "empty": ``, "empty-object": `{}`, "list": `[]`, "null": `null`, "not-json": `typ=JWT`,
		"alg-number": `{"typ":"JWT","alg":25519}`, "trailing": `{"typ":"JWT","alg":"ed25519-nkey"}x`,
		"duplicate": `{"typ":"JWT","alg":"none","alg":"ed25519-nkey"}`, "odd-case": `{"typ":"JWT","ALG":"ed25519-nkey"}`,
	} {
		put("header", "header-"+name, "account", raw(plain.identity, header, claims))
	}
}

// Ways to write the same JSON.
func spellings() {
	spelt("accept", "json-blanks", `{"iat"`, "\r\n\t { \"iat\"")
	spelt("accept", "json-escaped-key", `"sub"`, `"\u0073ub"`)
	spelt("accept", "json-unknown-field", `{"iat"`, `{"future":{"a":[1,2.5e3,null,true]},"iat"`)
	spelt("accept", "json-unknown-number-out-of-range", `{"iat"`, `{"future":1e999,"iat"`)
	spelt("accept", "json-deep-unknown-field", `{"iat"`, `{"future":`+strings.Repeat("[", 100)+strings.Repeat("]", 100)+`,"iat"`)
	spelt("accept", "json-not-utf8-in-name", `"name":"A"`, "\"name\":\"A\xff\xe2\x82\"")
	spelt("accept", "json-lone-surrogate-in-name", `"name":"A"`, `"name":"\ud800"`)
	spelt("accept", "json-emoji-in-name", `"name":"A"`, `"name":"\ud83d\ude00 😀 <&>"`)
	spelt("accept", "json-nul-in-name", `"name":"A"`, `"name":"\u0000"`)
	spelt("accept", "json-minus-zero", `"conn":-1`, `"conn":-0`)
	spelt("accept", "json-empty-old-type", `{"iat"`, `{"type":"","iat"`)
	spelt("accept", "json-null-fields", `"type":"account"`, `"exports":null,"imports":null,"signing_keys":null,"revocations":null,"default_permissions":null,"mappings":null,"authorization":null,"trace":null,"cluster_traffic":null,"description":null,"tags":null,"type":"account"`)

	spelt("json", "json-cut", `"version":2}`, `"version":2`)
	top, _ := base()
	put("json", "json-trailing", "account", raw(plain.identity, headerV2, text(top)+" x"))
	spelt("json", "json-trailing-comma", `"version":2}`, `"version":2,}`)
	spelt("json", "json-single-quotes", `"name"`, `'name'`)
	spelt("json", "json-control-in-string", `"name":"A"`, "\"name\":\"A\n\"")
	spelt("json", "json-bad-escape", `"name":"A"`, `"name":"\x41"`)
	spelt("json", "json-leading-zero", `"conn":-1`, `"conn":01`)
	spelt("json", "json-not-utf8-outside-string", `{"iat"`, "\xff{\"iat\"")
	spelt("json", "json-bom", `{"iat"`, "\xef\xbb\xbf{\"iat\"")
	spelt("json", "json-too-deep", `{"iat"`, `{"future":`+strings.Repeat("[", 300)+strings.Repeat("]", 300)+`,"iat"`)
	put("json", "json-random", "account", raw(plain.identity, headerV2, randomText(200)))
	put("json", "json-empty", "account", raw(plain.identity, headerV2, ""))

	spelt("duplicate-key", "sub-twice", `"sub"`, `"sub":"`+key(nkeys.PrefixByteAccount)+`","sub"`)
	spelt("duplicate-key", "iss-twice", `"iss"`, `"iss":"`+key(nkeys.PrefixByteOperator)+`","iss"`)
	spelt("duplicate-key", "nats-twice", `"nats"`, `"nats":{"exports":[]},"nats"`)
	spelt("duplicate-key", "escaped-twice", `"sub"`, `"\u0073ub":"A","sub"`)
	spelt("duplicate-key", "limit-twice", `"conn":-1`, `"conn":5,"conn":-1`)
	spelt("duplicate-key", "revocation-twice", `"type":"account"`, `"revocations":{"*":5,"*":6},"type":"account"`)
	spelt("duplicate-key", "unknown-twice", `{"iat"`, `{"x":1,"x":2,"iat"`)
	spelt("odd-case", "case-sub", `"sub"`, `"SUB"`)
	spelt("odd-case", "case-iss", `"iss"`, `"Iss"`)
	spelt("odd-case", "case-long-s", `"iss"`, `"iſs"`)
	spelt("odd-case", "case-kelvin", `"conn":-1`, `"leaF":-1,"conn":-1`)
	spelt("odd-case", "case-nats", `"nats"`, `"NATS"`)
	spelt("odd-case", "case-limits", `"limits"`, `"Limits"`)
	spelt("odd-case", "case-both", `"name":"A"`, `"name":"A","Name":"B"`)
	spelt("odd-case", "case-in-export", `"type":"account"`, `"exports":[{"subject":"a","Type":"stream"}],"type":"account"`)
	spelt("odd-case", "case-in-scope", `"type":"account"`, `"signing_keys":[{"kind":"user_scope","KEY":"`+key(nkeys.PrefixByteAccount)+`"}],"type":"account"`)
	spelt("accept", "case-of-map-keys", `"type":"account"`, `"revocations":{"a":1,"A":2},"type":"account"`)
}

// Values of another type than the field's.
func types() {
	for name, change := range map[string][2]string{
		"iat-text": {`"iat":`, `"exp":"never","iat":`}, "iat-decimal": {`"conn":-1`, `"conn":1.0`}, "iat-exponent": {`"conn":-1`, `"conn":1e3`},
		"limit-text": {`"conn":-1`, `"conn":"-1"`}, "limit-too-large": {`"conn":-1`, `"conn":9223372036854775808`},
		"limit-bool": {`"conn":-1`, `"conn":true`}, "bool-text": {`"wildcards":true`, `"wildcards":"true"`}, "bool-number": {`"wildcards":true`, `"wildcards":1`},
		"name-list": {`"name":"A"`, `"name":["A"]`}, "sub-number": {`"name":"A"`, `"name":7`}, "nats-list": {`"nats":`, `"nats":[],"x":`},
		"nats-text": {`"nats":`, `"nats":"{}","x":`}, "type-number": {`"type":"account"`, `"type":5`}, "version-text": {`"version":2`, `"version":"2"`},
		"aud-number": {`"name":"A"`, `"aud":1`}, "tags-text": {`"type":"account"`, `"tags":"a","type":"account"`},
		"exports-object": {`"type":"account"`, `"exports":{},"type":"account"`}, "export-text": {`"type":"account"`, `"exports":["a"],"type":"account"`},
		"export-type-unknown": {`"type":"account"`, `"exports":[{"subject":"a","type":"queue"}],"type":"account"`},
		"export-type-null":    {`"type":"account"`, `"exports":[{"subject":"a","type":null}],"type":"account"`},
		"export-type-case":    {`"type":"account"`, `"exports":[{"subject":"a","type":"Stream"}],"type":"account"`},
		"position-negative":   {`"type":"account"`, `"exports":[{"subject":"a.*","type":"service","account_token_position":-1}],"type":"account"`},
		"threshold-text":      {`"type":"account"`, `"exports":[{"subject":"a","type":"service","response_threshold":"1s"}],"type":"account"`},
		"sampling-text":       {`"type":"account"`, `"exports":[{"subject":"a","type":"service","service_latency":{"sampling":"all","results":"b"}}],"type":"account"`},
		"import-type-unknown": {`"type":"account"`, `"imports":[{"subject":"a","account":"x","type":""}],"type":"account"`},
		"revocation-text":     {`"type":"account"`, `"revocations":{"*":"now"},"type":"account"`}, "revocations-list": {`"type":"account"`, `"revocations":[],"type":"account"`},
		"weight-256":                      {`"type":"account"`, `"mappings":{"a":[{"subject":"b","weight":256}]},"type":"account"`},
		"weight-negative":                 {`"type":"account"`, `"mappings":{"a":[{"subject":"b","weight":-1}]},"type":"account"`},
		"mapping-object":                  {`"type":"account"`, `"mappings":{"a":{"subject":"b"}},"type":"account"`},
		"scope-kind-unknown":              {`"type":"account"`, `"signing_keys":[{"kind":"role_scope","key":"A"}],"type":"account"`},
		"scope-kind-missing":              {`"type":"account"`, `"signing_keys":[{"key":"A"}],"type":"account"`},
		"scope-kind-null":                 {`"type":"account"`, `"signing_keys":[{"kind":null,"key":"A"}],"type":"account"`},
		"scope-template-text":             {`"type":"account"`, `"signing_keys":[{"kind":"user_scope","key":"A","template":"x"}],"type":"account"`},
		"scope-limit-decimal":             {`"type":"account"`, `"signing_keys":[{"kind":"user_scope","key":"A","template":{"subs":1.5}}],"type":"account"`},
		"scope-limit-large":               {`"type":"account"`, `"signing_keys":[{"kind":"user_scope","key":"A","template":{"subs":9223372036854775807}}],"type":"account"`},
		"signing-key-number-out-of-range": {`"type":"account"`, `"signing_keys":[1e999],"type":"account"`},
		"signing-keys-text":               {`"type":"account"`, `"signing_keys":"A","type":"account"`},
		"tier-number":                     {`"conn":-1`, `"conn":-1,"tiered_limits":{"R1":5}`}, "trace-text": {`"type":"account"`, `"trace":"dest","type":"account"`},
		"permission-text": {`"type":"account"`, `"default_permissions":{"pub":{"allow":"a"}},"type":"account"`},
		"users-text":      {`"type":"account"`, `"authorization":{"auth_users":"U"},"type":"account"`},
	} {
		spelt("field-type", name, change[0], change[1])
	}
	put("field-type", "claims-list", "account", raw(plain.identity, headerV2, "[]"))
	put("field-type", "claims-text", "account", raw(plain.identity, headerV2, `"account"`))
}

// Other kinds of JWT, and other versions.
func kinds() {
	account := pair(nkeys.PrefixByteAccount)
	user, err := jwt.NewUserClaims(key(nkeys.PrefixByteUser)).Encode(account)
	check(err)
	put("kind", "user", "account", user)
	put("kind", "operator", "account", plain.token)
	activation := jwt.NewActivationClaims(key(nkeys.PrefixByteAccount))
	activation.ImportSubject, activation.ImportType = "a", jwt.Stream
	token, err := activation.Encode(account)
	check(err)
	put("kind", "activation", "account", token)
	generic := jwt.NewGenericClaims(public(plain.identity))
	generic.Data["accounts"] = []string{public(account)}
	token, err = generic.Encode(plain.identity)
	check(err)
	put("kind", "generic-delete-request", "account", token)
	response := jwt.NewAuthorizationResponseClaims(key(nkeys.PrefixByteUser))
	token, err = response.Encode(account)
	check(err)
	put("kind", "authorization-response", "account", token)
	hand("kind", "kind-missing", func(_, nats fields) { delete(nats, "type") })
	hand("kind", "kind-cluster", func(_, nats fields) { nats["type"] = "cluster" })
	hand("kind", "kind-case", func(_, nats fields) { nats["type"] = "Account" })
	hand("kind", "nats-missing", func(top, _ fields) { delete(top, "nats") })
	put("kind", "claims-null", "account", raw(plain.identity, headerV2, "null"))
	for name, version := range map[string]any{"3": 3, "0": 0, "1": 1, "minus-1": -1, "null": nil} {
		code := "version"
		if name == "1" {
			// Version 1 in the field of version 2: the signature rule of version 1 applies.
			code = "signature"
		}
		hand(code, "version-"+name, func(_, nats fields) { nats["version"] = version })
	}
	hand("version", "version-missing", func(_, nats fields) { delete(nats, "version") })
}

func times() {
	const year = 365 * 24 * 3600
	for name, change := range map[string]fields{
		"exp-far": {"exp": all.Now + 50*year}, "exp-zero": {"exp": 0}, "exp-negative": {"exp": -5}, "nbf-past": {"nbf": all.Now - year},
		"nbf-negative": {"nbf": -1}, "iat-missing": {"iat": nil}, "iat-negative": {"iat": -1}, "jti-missing": {"jti": nil}, "name-missing": {"name": nil},
		"exp-largest": {"exp": int64(9223372036854775807)},
	} {
		hand("accept", name, func(top, _ fields) {
			for k, v := range change {
				if v == nil {
					delete(top, k)
				} else {
					top[k] = v
				}
			}
		})
	}
	hand("expired", "exp-past", func(top, _ fields) { top["exp"] = all.Now - year })
	hand("expired", "exp-one", func(top, _ fields) { top["exp"] = 1 })
	hand("expired", "exp-before-nbf", func(top, _ fields) { top["exp"] = 1; top["nbf"] = all.Now + 50*year })
	hand("not-yet-valid", "nbf-far", func(top, _ fields) { top["nbf"] = all.Now + 50*year })
	hand("not-yet-valid", "nbf-largest", func(top, _ fields) { top["nbf"] = int64(9223372036854775807) })
	hand("issued-in-future", "iat-far", func(top, _ fields) { top["iat"] = all.Now + 50*year })
	hand("issued-in-future", "iat-largest", func(top, _ fields) { top["iat"] = int64(9223372036854775807) })
}
