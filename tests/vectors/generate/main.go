// Makes the test vectors: tokens by the official library, tokens altered by hand and signed again, and the verdict of
// that library on each, as nats-server asks for it.
//
//	go run . ..        writes ../accept/*.jwt, ../reject/<code>/*.jwt and ../verdicts.json
//	go run . .. DIR    the same under ../nsc, for the tokens that nsc.sh left in DIR
//
// Every key is made at run time and forgotten; only tokens stay. <code> is the code of our own refusal, written here
// by hand; tests/vectors.rs compares it with the program's. Tokens made by nsc are left alone: see nsc.sh.
package main

import (
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"time"

	"github.com/nats-io/jwt/v2"
	"github.com/nats-io/nkeys"
)

// vector is one line of verdicts.json.
type vector struct {
	Name    string   `json:"name"`
	File    string   `json:"file"`
	Kind    string   `json:"kind"`
	Trust   []string `json:"trust"`
	Go      string   `json:"go"`
	GoError string   `json:"go_error,omitempty"`
	Ours    string   `json:"ours"`
}

type document struct {
	MadeBy    string            `json:"made_by"`
	Now       int64             `json:"now"`
	Operators map[string]string `json:"operators"`
	Vectors   []vector          `json:"vectors"`
}

type operator struct {
	identity, signing nkeys.KeyPair
	token             string
}

var (
	out       string
	below     string // the folder within tests/vectors
	all       document
	operators = map[string]*operator{}
	plain     *operator
)

func check(err error) {
	if err != nil {
		panic(err)
	}
}

func pair(prefix nkeys.PrefixByte) nkeys.KeyPair {
	kp, err := nkeys.CreatePair(prefix)
	check(err)
	return kp
}

func public(kp nkeys.KeyPair) string {
	key, err := kp.PublicKey()
	check(err)
	return key
}

func key(prefix nkeys.PrefixByte) string { return public(pair(prefix)) }

func curve() string {
	kp, err := nkeys.CreateCurveKeys()
	check(err)
	return public(kp)
}

func newOperator(name string, strict bool) *operator {
	o := &operator{identity: pair(nkeys.PrefixByteOperator), signing: pair(nkeys.PrefixByteOperator)}
	claims := jwt.NewOperatorClaims(public(o.identity))
	claims.Name = name
	claims.SigningKeys.Add(public(o.signing))
	claims.StrictSigningKeyUsage = strict
	var err error
	o.token, err = claims.Encode(o.identity)
	check(err)
	operators[name] = o
	all.Operators[name] = o.token
	return o
}

// verdictOfAccount does what nats-server does with a fetched account: decode, trusted issuer, validation with time.
func verdictOfAccount(token string, trust []string) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("panic: %v", r)
		}
	}()
	claims, err := jwt.DecodeAccountClaims(token)
	if err != nil {
		return err
	}
	trusted := map[string]bool{}
	for _, name := range trust {
		oc, err := jwt.DecodeOperatorClaims(all.Operators[name])
		check(err)
		if !oc.StrictSigningKeyUsage {
			trusted[oc.Subject] = true
		}
		for _, k := range oc.SigningKeys {
			trusted[k] = true
		}
	}
	if !trusted[claims.Issuer] {
		return fmt.Errorf("issuer %s is not trusted", claims.Issuer)
	}
	vr := jwt.CreateValidationResults()
	claims.Validate(vr)
	if vr.IsBlocking(true) {
		for _, issue := range vr.Issues {
			if issue.Blocking || issue.TimeCheck {
				return fmt.Errorf("validation: %s", issue.Description)
			}
		}
	}
	// Only valid public account keys are ever fetched, and the subject must be the key that was asked for.
	if !nkeys.IsValidPublicAccountKey(claims.Subject) {
		return fmt.Errorf("subject %q is not an account public key", claims.Subject)
	}
	return nil
}

// verdictOfOperator checks what nsc and a careful reader would check; nats-server itself only decodes.
func verdictOfOperator(token string) error {
	claims, err := jwt.DecodeOperatorClaims(token)
	if err != nil {
		return err
	}
	if !nkeys.IsValidPublicOperatorKey(claims.Subject) {
		return fmt.Errorf("subject %q is not an operator public key", claims.Subject)
	}
	vr := jwt.CreateValidationResults()
	claims.Validate(vr)
	if vr.IsBlocking(false) {
		return fmt.Errorf("validation: %s", vr.Errors()[0])
	}
	return nil
}

// put stores a vector. ours is "accept" or the code of our refusal.
func put(ours, name, kind, token string, trust ...string) {
	folder := filepath.Join("reject", ours)
	if ours == "accept" {
		folder = ours
	}
	if len(trust) == 0 {
		trust = []string{"plain"}
	}
	v := vector{Name: name, File: filepath.Join(below, folder, name+".jwt"), Kind: kind, Trust: trust, Go: "accept", Ours: ours}
	for _, other := range all.Vectors {
		if other.File == v.File {
			panic("two vectors named " + v.File)
		}
	}
	var err error
	if kind == "operator" {
		err = verdictOfOperator(token)
	} else {
		err = verdictOfAccount(token, trust)
	}
	if err != nil {
		v.Go, v.GoError = "refuse", err.Error()
	}
	check(os.MkdirAll(filepath.Join(out, folder), 0o755))
	check(os.WriteFile(filepath.Join(out, folder, name+".jwt"), []byte(token), 0o644))
	all.Vectors = append(all.Vectors, v)
}

func b64(text string) string { return base64.RawURLEncoding.EncodeToString([]byte(text)) }

const (
	headerV2 = `{"typ":"JWT","alg":"ed25519-nkey"}`
	headerV1 = `{"typ":"jwt","alg":"ed25519"}`
)

func sign(kp nkeys.KeyPair, text string) string {
	sig, err := kp.Sign([]byte(text))
	check(err)
	return base64.RawURLEncoding.EncodeToString(sig)
}

// raw signs claims written by hand, by the rule of version 2.
func raw(kp nkeys.KeyPair, header, claims string) string {
	text := b64(header) + "." + b64(claims)
	return text + "." + sign(kp, text)
}

// rawV1 signs by the rule of version 1: the claims alone.
func rawV1(kp nkeys.KeyPair, header, claims string) string {
	return b64(header) + "." + b64(claims) + "." + sign(kp, b64(claims))
}

// accountOf returns an account's token, changed through the library's own types.
func accountOf(kp nkeys.KeyPair, change func(*jwt.AccountClaims)) string {
	claims := jwt.NewAccountClaims(key(nkeys.PrefixByteAccount))
	claims.Name = "A"
	if change != nil {
		change(claims)
	}
	token, err := claims.Encode(kp)
	check(err)
	return token
}

func lib(ours, name string, change func(*jwt.AccountClaims), trust ...string) {
	put(ours, name, "account", accountOf(plain.identity, change), trust...)
}

// fields are the claims of a plain account as JSON, top level and nats, to be changed by hand.
type fields = map[string]any

func base() (fields, fields) {
	nats := fields{
		"type": "account", "version": 2,
		"limits": fields{"subs": -1, "data": -1, "payload": -1, "imports": -1, "exports": -1, "wildcards": true, "conn": -1, "leaf": -1},
	}
	return fields{
		"iat": all.Now - 100, "iss": public(plain.identity), "name": "A", "sub": key(nkeys.PrefixByteAccount),
		"jti": "MADEBYHAND", "nats": nats,
	}, nats
}

func text(v any) string {
	data, err := json.Marshal(v)
	check(err)
	return string(data)
}

// hand stores an account whose JSON was changed by hand.
func hand(ours, name string, change func(top, nats fields)) {
	top, nats := base()
	change(top, nats)
	put(ours, name, "account", raw(plain.identity, headerV2, text(top)))
}

// spelt stores an account whose JSON text was changed by hand: the first `old` becomes `new`.
func spelt(ours, name, old, new string) {
	top, _ := base()
	claims := text(top)
	if !strings.Contains(claims, old) {
		panic(name + ": " + old + " is not in " + claims)
	}
	put(ours, name, "account", raw(plain.identity, headerV2, strings.Replace(claims, old, new, 1)))
}

func main() {
	if len(os.Args) < 2 || len(os.Args) > 3 {
		fmt.Fprintln(os.Stderr, "usage: go run . FOLDER [TOKENS OF NSC]")
		os.Exit(2)
	}
	out = os.Args[1]
	all = document{MadeBy: "jwt/v2 v2.8.3, nkeys v0.4.17", Now: time.Now().Unix(), Operators: map[string]string{}}
	if len(os.Args) == 3 {
		below = "nsc"
		out = filepath.Join(out, below)
		all.MadeBy = "nsc 2.15.0; verdicts by " + all.MadeBy
		empty()
		fromNsc(os.Args[2])
		finish()
		return
	}
	empty()
	plain = newOperator("plain", false)
	newOperator("strict", true)
	newOperator("other", false)

	signers()
	shapes()
	headers()
	spellings()
	types()
	kinds()
	times()
	limits()
	exports()
	imports()
	activations()
	settings()
	signingKeys()
	versionOne()
	operatorTokens()
	finish()
}

func empty() {
	for _, folder := range []string{"accept", "reject"} {
		check(os.RemoveAll(filepath.Join(out, folder)))
	}
}

// fromNsc takes operators/NAME.jwt and accounts/<accept or code>/OPERATOR/NAME.jwt.
func fromNsc(dir string) {
	files, err := filepath.Glob(filepath.Join(dir, "operators", "*.jwt"))
	check(err)
	for _, file := range files {
		all.Operators[name(file)] = content(file)
	}
	files, err = filepath.Glob(filepath.Join(dir, "accounts", "*", "*", "*.jwt"))
	check(err)
	for _, file := range files {
		trust := filepath.Base(filepath.Dir(file))
		put(filepath.Base(filepath.Dir(filepath.Dir(file))), name(file), "account", content(file), trust)
	}
	for operator, token := range all.Operators {
		put("accept", operator+"-operator", "operator", token)
	}
}

func name(file string) string { return strings.TrimSuffix(filepath.Base(file), ".jwt") }

func content(file string) string {
	data, err := os.ReadFile(file)
	check(err)
	return strings.TrimSpace(string(data))
}

// finish writes the verdicts.
func finish() {
	sort.Slice(all.Vectors, func(i, j int) bool { return all.Vectors[i].File < all.Vectors[j].File })
	data, err := json.MarshalIndent(all, "", "  ")
	check(err)
	check(os.WriteFile(filepath.Join(out, "verdicts.json"), append(data, '\n'), 0o644))
	accepted := 0
	for _, v := range all.Vectors {
		if v.Ours == "accept" {
			accepted++
		}
		if (v.Ours == "accept") != (v.Go == "accept") {
			fmt.Printf("differs: %s: go says %s %s\n", v.File, v.Go, v.GoError)
		}
	}
	fmt.Printf("%d vectors: %d to accept, %d to refuse\n", len(all.Vectors), accepted, len(all.Vectors)-accepted)
}

func randomText(n int) string {
	data := make([]byte, n)
	_, err := rand.Read(data)
	check(err)
	return base64.RawURLEncoding.EncodeToString(data)
}
