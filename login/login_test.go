package login

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"go.etcd.io/etcd/api/v3/authpb"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"limpet/auth"
)

func rules(t *testing.T, steps ...any) *auth.Rules {
	t.Helper()
	r := auth.NewRules()
	for _, s := range steps {
		var err error
		if r, err = r.Change(s); err != nil {
			t.Fatal(err)
		}
	}
	return r
}

// kept is what members keep of a token.
func kept(token string) string {
	prefix, index, _ := strings.Cut(token, ".")
	return Digest(prefix) + "." + index
}

func noWait(context.Context, uint64) error { return nil }

func TestSimpleTokens(t *testing.T) {
	r := rules(t)
	s := NewSimple(time.Hour, noWait)
	s.Change([]auth.TokenChange{{Token: kept("a.1"), User: "ann"}, {Token: kept("a.2"), User: "ann"}, {Token: kept("b.3"), User: "bob"}})
	whose := func(token string) string {
		c, err := s.Caller(t.Context(), token, r)
		if err != nil {
			if !errors.Is(err, auth.ErrInvalidToken) {
				t.Errorf("%q: %v", token, err)
			}
			return ""
		}
		if c.Revision != r.Revision() {
			t.Errorf("%q: revision %d, want %d", token, c.Revision, r.Revision())
		}
		return c.User
	}
	for token, want := range map[string]string{"a.1": "ann", "a.2": "ann", "b.3": "bob", "a.3": "", "a": "", "": "", ".": "", "a.x": "", "a.1.1": "", "a.-1": "", kept("a.1"): ""} {
		if got := whose(token); got != want {
			t.Errorf("%q is %q's, want %q", token, got, want)
		}
	}
	s.Change([]auth.TokenChange{{User: "ann"}, {Token: kept("a.4"), User: "ann"}})
	if whose("a.1") != "" || whose("a.4") != "ann" || whose("b.3") != "bob" {
		t.Error("a user's tokens are not void, or others are")
	}
	s.Change([]auth.TokenChange{{}})
	if whose("a.4")+whose("b.3") != "" {
		t.Error("not all tokens are void")
	}
}

// A token that is used lives on; one that is not is forgotten.
func TestSimpleTokensEnd(t *testing.T) {
	s := NewSimple(time.Hour, noWait)
	s.Change([]auth.TokenChange{{Token: kept("used.1"), User: "ann"}, {Token: kept("late.1"), User: "ann"}})
	s.mu.Lock()
	for _, h := range s.users {
		h.ends = time.Now().Add(time.Minute)
	}
	s.users[kept("late.1")].ends = time.Now().Add(-time.Minute)
	s.mu.Unlock()
	if _, err := s.Caller(t.Context(), "late.1", rules(t)); !errors.Is(err, auth.ErrInvalidToken) {
		t.Errorf("a token whose time is up: %v", err)
	}
	if _, err := s.Caller(t.Context(), "used.1", rules(t)); err != nil {
		t.Fatal(err)
	}
	s.mu.Lock()
	left := time.Until(s.users[kept("used.1")].ends)
	s.swept = time.Now().Add(-time.Hour)
	s.mu.Unlock()
	if left < 50*time.Minute {
		t.Errorf("a token that was used has %v left", left)
	}
	s.Change([]auth.TokenChange{{Token: kept("new.1"), User: "bob"}})
	if _, kept := s.users[kept("late.1")]; kept || len(s.users) != 2 {
		t.Errorf("%d tokens are kept", len(s.users))
	}
}

// A token may be known elsewhere already: it is waited for.
func TestSimpleTokensFromElsewhere(t *testing.T) {
	var s *Simple
	s = NewSimple(0, func(_ context.Context, index uint64) error {
		if index > 9 {
			return context.DeadlineExceeded
		}
		s.Change([]auth.TokenChange{{Token: kept("a.9"), User: "ann"}})
		return nil
	})
	if c, err := s.Caller(t.Context(), "a.9", rules(t)); c.User != "ann" {
		t.Errorf("%+v, %v", c, err)
	}
	if _, err := s.Caller(t.Context(), "a.10", rules(t)); !errors.Is(err, auth.ErrInvalidToken) {
		t.Errorf("a token of an index that does not come: %v", err)
	}
}

func TestPrefixes(t *testing.T) {
	a, b := NewPrefix(), NewPrefix()
	if a == b || len(a) != 16 || strings.Trim(a, prefixLetters) != "" {
		t.Errorf("prefixes %q, %q", a, b)
	}
}

func TestPasswords(t *testing.T) {
	p := NewPasswords(MinCost)
	hash, err := p.Hash(t.Context(), "h", "right")
	if err != nil {
		t.Fatal(err)
	}
	on := []any{
		&pb.AuthUserAddRequest{Name: auth.Root, HashedPassword: hash}, &pb.AuthUserGrantRoleRequest{User: auth.Root, Role: auth.Root},
		&pb.AuthUserAddRequest{Name: "cert", Options: &authpb.UserAddOptions{NoPassword: true}},
		&pb.AuthUserAddRequest{Name: "empty"}, &pb.AuthEnableRequest{},
	}
	r := rules(t, on...)
	for _, tc := range []struct {
		user, password string
		want           error
	}{
		{auth.Root, "right", nil}, {auth.Root, "wrong", auth.ErrFailed}, {auth.Root, "", auth.ErrFailed}, {"none", "right", auth.ErrFailed},
		{"cert", "", auth.ErrNoPasswordUser}, {"empty", "", auth.ErrFailed}, {"", "", auth.ErrFailed},
	} {
		rev, err := p.Check(t.Context(), r, "h", tc.user, tc.password)
		if !errors.Is(err, tc.want) || err == nil && rev != r.Revision() {
			t.Errorf("%q with %q: %d, %v; want %v", tc.user, tc.password, rev, err, tc.want)
		}
	}
	if _, err := p.Check(t.Context(), rules(t), "h", auth.Root, "right"); !errors.Is(err, auth.ErrNotEnabled) {
		t.Errorf("while nothing is checked: %v", err)
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if err := p.turns.take(t.Context(), "other"); err != nil { // somebody else's turn
		t.Fatal(err)
	}
	if _, err := p.Check(ended, r, "h", auth.Root, "right"); !errors.Is(err, context.Canceled) {
		t.Errorf("whoever gave up waiting got %v", err)
	}
	p.turns.give()
	// However many guess at once, one host gets no more than its tries.
	var guesses, refused atomic.Int64
	var wg sync.WaitGroup
	for range 2 * triesAtOnce {
		wg.Go(func() {
			if _, err := p.Check(t.Context(), r, "guesser", auth.Root, "wrong"); errors.Is(err, ErrTooMany) {
				refused.Add(1)
			} else if errors.Is(err, auth.ErrFailed) {
				guesses.Add(1)
			}
		})
	}
	wg.Wait()
	if refused.Load() == 0 || guesses.Load()+refused.Load() != 2*triesAtOnce {
		t.Errorf("%d guesses at once, %d refused", guesses.Load(), refused.Load())
	}
	if _, err := p.Check(t.Context(), r, "h", auth.Root, "right"); err != nil {
		t.Errorf("root from elsewhere: %v", err)
	}
	if err := TooLong(strings.Repeat("x", 72)); err != nil {
		t.Error(err)
	}
	if err := TooLong(strings.Repeat("x", 73)); err == nil {
		t.Error("bcrypt would cut this password")
	}
}

// Whoever has failed lately waits behind those who have not, and not in any
// number.
func TestTurns(t *testing.T) {
	turns := &turns{limit: newLimit()}
	if err := turns.take(t.Context(), "first"); err != nil {
		t.Fatal(err)
	}
	turns.limit.failed("guesser", "root", time.Now())
	came := make(chan string, 100)
	var wg sync.WaitGroup
	wait := func(host string) {
		w, err := turns.join(host)
		if err != nil {
			came <- "refused"
			return
		}
		wg.Go(func() {
			<-w.turn
			came <- host
			turns.give()
		})
	}
	for range maxWaitingSuspect + 1 {
		wait("guesser")
	}
	if got := <-came; got != "refused" {
		t.Errorf("the last of too many: %s", got)
	}
	wait("honest")
	turns.give()
	if got := <-came; got != "honest" {
		t.Errorf("the first is %s", got)
	}
	wg.Wait()
	if len(came) != maxWaitingSuspect || turns.taken {
		t.Errorf("%d others had a turn, taken %v", len(came), turns.taken)
	}
	// Whoever gives up leaves the turn to others.
	if err := turns.take(t.Context(), "first"); err != nil {
		t.Fatal(err)
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if err := turns.take(ended, "impatient"); !errors.Is(err, context.Canceled) {
		t.Errorf("whoever gave up got %v", err)
	}
	turns.give()
	if turns.taken || len(turns.waiting) != 0 {
		t.Errorf("taken %v, %d wait", turns.taken, len(turns.waiting))
	}
}

func TestSources(t *testing.T) {
	for host, want := range map[string]string{
		"127.0.0.1": "loopback", "127.9.9.9": "loopback", "::1": "loopback", "::ffff:127.0.0.1": "loopback", "192.0.2.7": "192.0.2.7",
		"::ffff:192.0.2.7": "192.0.2.7", "2001:db8::1": "2001:db8::/64", "2001:db8::2:3": "2001:db8::/64", "fe80::1%eth0": "fe80::/64", "@": "@", "": "",
	} {
		if got := source(host); got != want {
			t.Errorf("%q counts as %q, want %q", host, got, want)
		}
	}
}

func TestLimit(t *testing.T) {
	l, now := newLimit(), time.Unix(1000, 0)
	for i := range triesAtOnce {
		if !l.allowed("h", "ann", now) {
			t.Fatalf("refused after %d failures", i)
		}
		l.failed("h", "ann", now)
	}
	if l.allowed("h", "ann", now) {
		t.Error("allowed after too many failures")
	}
	if !l.allowed("other", "ann", now) || !l.allowed("h", "bob", now) {
		t.Error("somebody else pays for it")
	}
	if !l.allowed("h", "ann", now.Add(2*time.Second)) {
		t.Error("refused after a rest")
	}
	for i := range triesAtOnce * hostFactor {
		l.failed("h", string(rune('A'+i)), now)
	}
	if l.allowed("h", "fresh", now) || !l.allowed("other", "fresh", now) {
		t.Error("a host may try any number of users, or all hosts pay for one")
	}
	for i := range 2 * maxRemembered {
		l.failed("many", string(rune(i+0x1000)), now)
	}
	if n := len(l.buckets); n > maxRemembered+2 {
		t.Errorf("%d failures are remembered", n)
	}
	l.failed("h", strings.Repeat("long", 1<<20), now)
	for key := range l.buckets {
		if len(key) > 100 {
			t.Fatalf("%d bytes of a name are remembered", len(key))
		}
	}
}

func TestOpen(t *testing.T) {
	for token, want := range map[string]string{
		"simple": "", "": "", "paseto": "paseto", "jwt": "option", "jwt,sign-method=RS256": "neither",
		"jwt,sign-method=none,priv-key=x": "sign-method", "jwt,sign-method=X,priv-key=x": "sign-method", "jwt,sign-method=HS256,priv-key=/none": "/none", "jwt,sign-method=HS256,priv-key=/dev/null": "empty",
		"jwt,sign-method=HS256,sign-method=HS256": "twice", "jwt,sign-method=HS256,ttl=x": "ttl",
	} {
		_, err := Open(Config{Token: token}, noWait)
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "--auth-token")) {
			t.Errorf("%q: %v, want %q", token, err, want)
		}
	}
	d, err := Open(Config{Token: "", Cost: 99}, noWait)
	if err != nil || d.Passwords.cost != DefaultCost {
		t.Fatalf("%+v, %v", d, err)
	}
	d.Simple.Change([]auth.TokenChange{{Token: kept("a.1"), User: "ann"}})
	if _, err := d.Caller(t.Context(), "a.1", rules(t)); !errors.Is(err, auth.ErrInvalidToken) {
		t.Errorf("a token where there are none: %v", err)
	}
}

// pair writes a key pair.
func pair(t *testing.T, key crypto.Signer) (pub, priv string) {
	t.Helper()
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	public, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	write := func(name, kind string, der []byte) string {
		file := filepath.Join(dir, name)
		if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
			t.Fatal(err)
		}
		return file
	}
	return write("pub", "PUBLIC KEY", public), write("priv", "PRIVATE KEY", private)
}

func open(t *testing.T, options ...string) *JWT {
	t.Helper()
	d, err := Open(Config{Token: "jwt," + strings.Join(options, ",")}, noWait)
	if err != nil {
		t.Fatal(err)
	}
	return d.JWT
}

func TestJWT(t *testing.T) {
	rsaKey, _ := rsa.GenerateKey(rand.Reader, 2048)
	ecKey, _ := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	_, edKey, _ := ed25519.GenerateKey(rand.Reader)
	for method, key := range map[string]crypto.Signer{"RS256": rsaKey, "PS512": rsaKey, "ES256": ecKey, "EdDSA": edKey} {
		pub, priv := pair(t, key)
		whole, reader := open(t, "sign-method="+method, "pub-key="+pub, "priv-key="+priv), open(t, "sign-method="+method, "pub-key="+pub)
		token, err := whole.Sign("ann", 7)
		if err != nil {
			t.Fatal(method, err)
		}
		for _, j := range []*JWT{whole, reader, open(t, "sign-method="+method, "priv-key="+priv)} {
			if c, err := j.Caller(token); c != (auth.Caller{User: "ann", Revision: 7}) {
				t.Errorf("%s: %+v, %v", method, c, err)
			}
		}
		if _, err := reader.Sign("ann", 7); !errors.Is(err, auth.ErrVerifyOnly) {
			t.Errorf("%s: signed without a private key: %v", method, err)
		}
		if c, err := whole.Caller(token[:len(token)-5]); !errors.Is(err, auth.ErrInvalidToken) {
			t.Errorf("%s: a token that was cut: %+v, %v", method, c, err)
		}
		_, other := pair(t, edKey)
		if method != "EdDSA" {
			if _, err := ParseJWT("sign-method=" + method + ",priv-key=" + other); err == nil || strings.Contains(err.Error(), "PRIVATE") {
				t.Errorf("%s: a key of another kind: %v", method, err)
			}
		}
	}
	_, edOther, _ := ed25519.GenerateKey(rand.Reader)
	pub, _ := pair(t, edKey)
	_, priv := pair(t, edOther)
	if _, err := ParseJWT("sign-method=EdDSA,pub-key=" + pub + ",priv-key=" + priv); err == nil || !strings.Contains(err.Error(), "belong together") {
		t.Errorf("two keys of two pairs: %v", err)
	}
}

// What a token claims counts only if all of it is right.
func TestJWTClaims(t *testing.T) {
	secret := filepath.Join(t.TempDir(), "key")
	if err := os.WriteFile(secret, []byte("0123456789abcdef"), 0o600); err != nil {
		t.Fatal(err)
	}
	j := open(t, "sign-method=HS256", "priv-key="+secret, "ttl=1h")
	sign := func(method jwt.SigningMethod, key any, claims jwt.MapClaims) string {
		s, err := jwt.NewWithClaims(method, claims).SignedString(key)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	key := []byte("0123456789abcdef")
	for name, tc := range map[string]struct {
		token string
		want  auth.Caller
	}{
		"right":          {sign(jwt.SigningMethodHS256, key, jwt.MapClaims{"username": "ann", "revision": 3, "exp": time.Now().Add(time.Hour).Unix()}), auth.Caller{User: "ann", Revision: 3}},
		"without end":    {sign(jwt.SigningMethodHS256, key, jwt.MapClaims{"username": "ann", "revision": 3}), auth.Caller{User: "ann", Revision: 3}},
		"ended":          {token: sign(jwt.SigningMethodHS256, key, jwt.MapClaims{"username": "ann", "revision": 3, "exp": 1000})},
		"other key":      {token: sign(jwt.SigningMethodHS256, []byte("other"), jwt.MapClaims{"username": "ann", "revision": 3})},
		"other method":   {token: sign(jwt.SigningMethodHS512, key, jwt.MapClaims{"username": "ann", "revision": 3})},
		"unsigned":       {token: sign(jwt.SigningMethodNone, jwt.UnsafeAllowNoneSignatureType, jwt.MapClaims{"username": "ann", "revision": 3})},
		"no user":        {token: sign(jwt.SigningMethodHS256, key, jwt.MapClaims{"revision": 3})},
		"no revision":    {token: sign(jwt.SigningMethodHS256, key, jwt.MapClaims{"username": "ann"})},
		"odd user":       {token: sign(jwt.SigningMethodHS256, key, jwt.MapClaims{"username": 1, "revision": 3})},
		"odd revision":   {token: sign(jwt.SigningMethodHS256, key, jwt.MapClaims{"username": "ann", "revision": "3"})},
		"simple":         {token: "abc.3"},
		"nothing at all": {},
	} {
		c, err := j.Caller(tc.token)
		if c != tc.want || (err == nil) != (tc.want.User != "") {
			t.Errorf("%s: %+v, %v; want %+v", name, c, err, tc.want)
		}
	}
}
