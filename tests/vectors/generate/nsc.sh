#!/usr/bin/env bash
# Makes the vectors that come from the real nsc, in a store of its own that is deleted at the end with every key.
#
#   NSC=/path/to/nsc ./nsc.sh      (nsc 2.15.0)
#
# Writes ../nsc/accept/*.jwt, ../nsc/reject/<code>/*.jwt and ../nsc/verdicts.json, the verdicts by the official library.
set -euo pipefail
cd "$(dirname "$0")"
nsc_binary=${NSC:-nsc}
work=$(mktemp -d)
GOPATH=$(go env GOPATH) GOCACHE=$(go env GOCACHE)
export GOPATH GOCACHE
trap 'rm -rf "$work"' EXIT
export XDG_DATA_HOME=$work/data XDG_CONFIG_HOME=$work/config NSC_HOME=$work/home NKEYS_PATH=$work/keys NSC_NO_GIT_IGNORE=true
export HOME=$work NO_COLOR=1
nsc() { "$nsc_binary" "$@" >>"$work/log" 2>&1 || { tail -n 20 "$work/log" >&2; echo "failed: nsc $*" >&2; exit 1; }; }
nsc env -s "$work/store"

# keep FOLDER TRUST NAME ACCOUNT: stores the account's JWT as a vector under FOLDER (accept, or a code).
keep() {
    mkdir -p "$work/out/accounts/$1/$2"
    "$nsc_binary" describe account "$4" --raw 2>>"$work/log" >"$work/out/accounts/$1/$2/nsc-$3.jwt"
}
operator() {
    mkdir -p "$work/out/operators"
    "$nsc_binary" describe operator --raw 2>>"$work/log" >"$work/out/operators/$1.jwt"
}
key() { "$nsc_binary" generate nkey "--$1" 2>&1 | grep -oE '^[AUO][A-Z2-7]{55}$'; }

# A plain operator with a signing key and a system account; its identity key signs.
nsc add operator plain --sys
nsc edit operator --account-jwt-server-url http://127.0.0.1:9090/jwt/v1 --service-url nats://127.0.0.1:4222
nsc add account minimal
keep accept nsc-plain minimal minimal
keep accept nsc-plain system-account SYS
nsc add account limits
nsc edit account limits --conns 100 --leaf-conns 5 --payload 64K --subscriptions 1000 --data 1G --imports 10 --exports 10 --wildcard-exports
keep accept nsc-plain limits limits
nsc add account exporter
nsc add export --account exporter --name orders --subject 'orders.>'
nsc add export --account exporter --name quotes --subject 'quotes.*' --service --response-type Stream --response-threshold 5s
nsc add export --account exporter --name timed --subject timed --service --latency latency.timed --sampling 25
nsc add export --account exporter --name secret --subject 'secret.*' --private
keep accept nsc-plain exports exporter
exporter=$("$nsc_binary" describe account exporter --json 2>>"$work/log" | grep -oE '"sub": "A[A-Z2-7]{55}"' | cut -d'"' -f4)
nsc add account importer
importer=$("$nsc_binary" describe account importer --json 2>>"$work/log" | grep -oE '"sub": "A[A-Z2-7]{55}"' | cut -d'"' -f4)
nsc add import --account importer --name orders --src-account "$exporter" --remote-subject 'orders.>' --local-subject 'theirs.>'
nsc add import --account importer --name quotes --src-account "$exporter" --remote-subject 'quotes.*' --service --share
nsc generate activation --account exporter --subject secret.a --target-account "$importer" --output-file "$work/activation.jwt"
nsc add import --account importer --name secret --token "$work/activation.jwt" --local-subject mine
keep accept nsc-plain imports importer
nsc add account keys
nsc edit account keys --sk generate
nsc edit account keys --sk generate
keep accept nsc-plain signing-keys keys
nsc add account scopes
scope=$(key account)
nsc edit signing-key --account scopes --sk "$scope" --role reader --allow-pub 'a.>' --deny-sub 'b' --bearer --conn-type WEBSOCKET --subs 5
keep accept nsc-plain scoped-signing-key scopes
nsc add account revoked
nsc add user --account revoked joe
nsc revocations add-user --account revoked --name joe
keep accept nsc-plain revocation revoked
nsc revocations add-user --account revoked --user-public-key '*'
keep accept nsc-plain revocation-of-all revoked
nsc add account mapped
nsc add mapping --account mapped --from 'old.*' --to 'new.$1' --weight 60
nsc add mapping --account mapped --from 'old.*' --to 'newer.$1' --weight 40
keep accept nsc-plain mappings mapped
nsc add account streams
nsc edit account streams --js-mem-storage 1G --js-disk-storage 10G --js-streams 10 --js-consumer 100
keep accept nsc-plain jetstream-flat streams
nsc add account tiers
nsc edit account tiers --js-tier 1 --js-disk-storage 10G
nsc edit account tiers --js-tier 3 --js-disk-storage 5G --js-mem-storage 1M
keep accept nsc-plain jetstream-tiers tiers
nsc add account texts
nsc edit account texts --description 'Zahlungen & mehr <prod>' --info-url https://example.net/payments --tag team:a --tag Prod
keep accept nsc-plain texts texts
nsc add account defaults
nsc edit account defaults --allow-pub 'a.>' --deny-pub 'a.b' --allow-sub 'c.> q' --allow-pub-response=5 --response-ttl 2s
keep accept nsc-plain default-permissions defaults
nsc add account traced
nsc edit account traced --trace-context-subject trace.here --trace-context-sampling 10
keep accept nsc-plain trace traced
nsc add account expiring --expiry 10y
keep accept nsc-plain expiring expiring
nsc add account callout
nsc add user --account callout auth
user=$("$nsc_binary" describe user --account callout auth --json 2>>"$work/log" | grep -oE '"sub": "U[A-Z2-7]{55}"' | cut -d'"' -f4)
nsc edit authcallout --account callout --auth-user "$user" --allowed-account '*'
keep accept nsc-plain auth-callout callout
nsc add account tight
nsc add export --account tight --subject 'wide.>'
nsc edit account tight --exports 0 || true
keep limits nsc-plain exports-above-limit tight
operator nsc-plain

# With a signing key of the operator, which nsc then prefers.
nsc add operator signing
nsc edit operator --sk generate
nsc add account by-signing-key
operator nsc-signing
keep accept nsc-signing by-signing-key by-signing-key

# Strict: the identity key no longer counts.
nsc add operator strict
nsc add account before-strict
nsc edit operator --sk generate
mkdir -p "$work/out/accounts/strict/nsc-strict"
cp "$work/store/strict/accounts/before-strict/before-strict.jwt" "$work/out/accounts/strict/nsc-strict/nsc-identity-signed-before-strict.jwt"
nsc delete account before-strict --rm-nkey --rm-creds --force
nsc edit operator --require-signing-keys
nsc add account after-strict
operator nsc-strict
keep accept nsc-strict strict-signed-by-signing-key after-strict
# The same account, sent to the mesh of another operator.
mkdir -p "$work/out/accounts/untrusted/nsc-plain"
cp "$work/out/accounts/accept/nsc-strict/nsc-strict-signed-by-signing-key.jwt" "$work/out/accounts/untrusted/nsc-plain/nsc-of-another-operator.jwt"
# A user where an account is wanted.
nsc edit account after-strict --sk generate
nsc add user --account after-strict joe
mkdir -p "$work/out/accounts/kind/nsc-strict"
"$nsc_binary" describe user --account after-strict joe --raw 2>>"$work/log" >"$work/out/accounts/kind/nsc-strict/nsc-user.jwt"

go run . .. "$work/out"
