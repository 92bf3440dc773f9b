package e2e

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"limpet/e2e/side"
)

// jwtKeys is a pair of keys for a way of signing, in files that both servers are given.
type jwtKeys struct {
	method          jwt.SigningMethod
	private         any // what golang-jwt signs with
	priv, pub       string
	publicPEM       []byte
	another         any // a key of the same kind that the servers do not know
	foreign, forger jwt.SigningMethod
}

func newKeys(t *testing.T, method jwt.SigningMethod) *jwtKeys {
	t.Helper()
	k := &jwtKeys{method: method, foreign: jwt.SigningMethodHS384, forger: jwt.SigningMethodHS256}
	folder := t.TempDir()
	if _, ok := method.(*jwt.SigningMethodHMAC); ok {
		k.private, k.another = []byte("a secret that both sides know"), []byte("another")
		k.priv = filepath.Join(folder, "secret")
		writeFile(t, k.priv, k.private.([]byte))
		return k
	}
	own, other := newSigner(t, method), newSigner(t, method)
	k.private, k.another = own, other
	k.priv, k.pub = filepath.Join(folder, "private.pem"), filepath.Join(folder, "public.pem")
	private, err := x509.MarshalPKCS8PrivateKey(own)
	if err != nil {
		t.Fatal(err)
	}
	public, err := x509.MarshalPKIXPublicKey(own.Public())
	if err != nil {
		t.Fatal(err)
	}
	k.publicPEM = pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: public})
	writeFile(t, k.priv, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private}))
	writeFile(t, k.pub, k.publicPEM)
	return k
}

func newSigner(t *testing.T, method jwt.SigningMethod) crypto.Signer {
	t.Helper()
	var signer crypto.Signer
	var err error
	switch method.(type) {
	case *jwt.SigningMethodECDSA:
		signer, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	case *jwt.SigningMethodEd25519:
		_, signer, err = ed25519.GenerateKey(rand.Reader)
	default:
		signer, err = rsa.GenerateKey(rand.Reader, 2048)
	}
	if err != nil {
		t.Fatal(err)
	}
	return signer
}

func writeFile(t *testing.T, path string, content []byte) {
	t.Helper()
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
}

// flag is --auth-token with both keys, or with the public one alone.
func (k *jwtKeys) flag(publicOnly bool) string {
	options := []string{"--auth-token=jwt", "sign-method=" + k.method.Alg(), "ttl=10m"}
	if k.pub != "" {
		options = append(options, "pub-key="+k.pub)
	}
	if !publicOnly {
		options = append(options, "priv-key="+k.priv)
	}
	return strings.Join(options, ",")
}

func sign(t *testing.T, method jwt.SigningMethod, key any, claims jwt.MapClaims) string {
	t.Helper()
	token, err := jwt.NewWithClaims(method, claims).SignedString(key)
	if err != nil {
		t.Fatal(err)
	}
	return token
}

// TestAuthJWT gives both servers the same keys. A token that one of them has signed is as good at the
// other.
func TestAuthJWT(t *testing.T) {
	t.Parallel()
	for _, method := range []jwt.SigningMethod{
		jwt.SigningMethodRS256, jwt.SigningMethodPS256, jwt.SigningMethodES256, jwt.SigningMethodEdDSA, jwt.SigningMethodHS256, jwt.SigningMethodRS512,
	} {
		t.Run(method.Alg(), func(t *testing.T) {
			keys := newKeys(t, method)
			s := newStage(t, 1, keys.flag(false))
			peopled(s)
			jwtUse(s, "<root>", "<alice>", "<gone>") // their revision is old already
			fresh := s.enter("again", "root", "alice")
			jwtUse(s, fresh...)
			jwtCrossed(s, fresh[1])
			jwtForged(t, s, keys)
			s.restart(t, 1, true)
			jwtUse(s, fresh...)
			s.all(fresh[0], userDelete("alice"))
			jwtUse(s, fresh...)
			s.all(fresh[0], authDisable())
			s.all("", authEnable())
			jwtUse(s, fresh...)
		})
	}
}

// TestAuthJWTOfThree: what one member signs, the others take.
func TestAuthJWTOfThree(t *testing.T) {
	t.Parallel()
	keys := newKeys(t, jwt.SigningMethodES256)
	s := newStage(t, 3, keys.flag(false))
	peopled(s)
	fresh := s.enter("again", "root", "alice", "bob")
	s.try(fresh...)
	s.do(fresh[0], forbid("app", "a/", "a0"))
	s.try(fresh...)
	s.restart(t, 3, true)
	s.try(s.enter("at last", "root", "alice")...)
}

// TestAuthJWTPublicOnly: who has only the public key believes tokens and makes none.
func TestAuthJWTPublicOnly(t *testing.T) {
	t.Parallel()
	keys := newKeys(t, jwt.SigningMethodRS256)
	s := newStage(t, 1, keys.flag(true))
	s.all("", userAdd("root", "pw"), grantRole("root", "root"), userAdd("alice", "pw"), authEnable())
	s.all("",
		side.Login{Name: "root", Password: "pw", Token: "<root>"}, side.Login{Name: "root", Password: "wrong", Token: "<root>"},
		side.Login{Name: "nobody", Password: "pw", Token: "<root>"},
	)
	jwtForged(t, s, keys)
}

// jwtUse makes calls that are checked in different ways.
func jwtUse(s *stage, tokens ...string) {
	for _, token := range tokens {
		s.all(token,
			get("a/1"), get("secret"), put("a/1", "v"), put("secret", "v"), side.Stream{Request: &pb.RangeRequest{Key: []byte("a/1")}},
			txn(&pb.TxnRequest{Success: []*pb.RequestOp{getOp("a/1")}}), txn(&pb.TxnRequest{Success: []*pb.RequestOp{putOp("a/1", "w")}}), txn(&pb.TxnRequest{}),
			remove("a/none", ""), leases(), timeToLive(1), timeToLive(2), timeToLive(3), side.KeepAlive{IDs: []int64{1}}, side.KeepAlive{IDs: []int64{3}}, grant(77, 5000),
			putLeased("a/1", 2), revoke(2), revoke(77), compact(1<<40), status(), memberList(true), memberRemove(nobody), hashKV(0), defragment(),
			alarmOf(1, pb.AlarmRequest_GET), userGet("alice"), userGet("root"), userGet("gone"), roleGet("app"), userList(), authStatus(), authEnable(),
			side.WatchOpen{Handle: 3},
		)
		s.At(1).Do(side.WatchCreate{Handle: 3, Request: &pb.WatchCreateRequest{Key: []byte("a/1")}})
		s.At(1).Do(side.WatchClose{Handle: 3})
	}
}

// jwtCrossed has each server shown the token that the other one has signed.
func jwtCrossed(s *stage, token string) {
	etcd, other := s.Reference.Names, s.Subject.Names
	a, b := etcd.RealText(token), other.RealText(token)
	etcd.BindText("<crossed>", b)
	other.BindText("<crossed>", a)
	jwtUse(s, "<crossed>")
}

// jwtForged shows tokens that the test has signed, good ones and others.
func jwtForged(t *testing.T, s *stage, k *jwtKeys) {
	revision := float64(s.ask("", authStatus()).Messages[0].(*pb.AuthStatusResponse).AuthRevision)
	soon, past := time.Now().Add(time.Hour).Unix(), time.Now().Add(-time.Hour).Unix()
	good := jwt.MapClaims{"username": "alice", "revision": revision, "exp": soon}
	with := func(changes jwt.MapClaims) jwt.MapClaims {
		claims := jwt.MapClaims{}
		for _, from := range []jwt.MapClaims{good, changes} {
			for name, value := range from {
				if claims[name] = value; value == nil {
					delete(claims, name)
				}
			}
		}
		return claims
	}
	var tokens []string
	for _, changes := range []jwt.MapClaims{
		{}, {"username": "root"}, {"exp": past}, {"exp": nil}, {"exp": "soon"}, {"nbf": soon}, {"iat": soon}, {"iss": "somebody", "aud": "else"},
		{"username": nil}, {"username": 7}, {"username": ""}, {"username": "nobody"}, {"username": "Alice"},
		{"revision": nil}, {"revision": "7"}, {"revision": 0}, {"revision": revision - 1}, {"revision": revision + 1}, {"revision": revision + 0.5},
		{"username": "root", "revision": 1}, {"username": "root", "revision": 0}, {"username": "nobody", "revision": 1},
	} {
		tokens = append(tokens, sign(t, k.method, k.private, with(changes)))
	}
	whole := tokens[0]
	tokens = append(tokens,
		sign(t, k.method, k.another, good), sign(t, jwt.SigningMethodNone, jwt.UnsafeAllowNoneSignatureType, good),
		sign(t, k.foreign, []byte("a secret that both sides know"), good), sign(t, k.forger, append([]byte("x"), k.publicPEM...), good), whole+"x", whole[:len(whole)-9],
		whole[strings.Index(whole, ".")+1:], "..", whole+".x", "Bearer "+whole,
	)
	if len(k.publicPEM) > 0 { // the public key taken for a secret
		tokens = append(tokens, sign(t, k.forger, k.publicPEM, good))
	}
	for _, token := range tokens {
		s.all(token, get("a/1"), put("a/1", "v"), get("secret"), userGet("alice"), userList(), leases(), status(), authStatus(), timeToLive(1), side.Stream{Request: &pb.RangeRequest{Key: []byte("a/1")}})
	}
}
