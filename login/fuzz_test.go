package login

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"limpet/auth"
)

// FuzzTokens: whatever is shown as a token, nobody passes for another than the
// user it was issued to, and what is no token is refused as such. Entries of the
// log that never come keep nobody waiting here.
func FuzzTokens(f *testing.F) {
	key := filepath.Join(f.TempDir(), "key")
	if err := os.WriteFile(key, []byte("0123456789abcdef"), 0o600); err != nil {
		f.Fatal(err)
	}
	j, err := ParseJWT("sign-method=HS256,priv-key=" + key)
	if err != nil {
		f.Fatal(err)
	}
	signed, err := j.Sign("ann", 7)
	if err != nil {
		f.Fatal(err)
	}
	unsigned, err := jwt.NewWithClaims(jwt.SigningMethodNone, jwt.MapClaims{"username": "root", "revision": 7}).SignedString(jwt.UnsafeAllowNoneSignatureType)
	if err != nil {
		f.Fatal(err)
	}
	simple := NewSimple(time.Hour, func(_ context.Context, index uint64) error {
		if index > 9 {
			return context.DeadlineExceeded
		}
		return nil
	})
	simple.Change([]auth.TokenChange{{Token: kept("sEcReTpReFiX.7"), User: "ann"}})
	for _, seed := range []string{
		signed, signed[:len(signed)-1], signed + "=", unsigned, strings.ToUpper(signed), "sEcReTpReFiX.7", "sEcReTpReFiX.8", "sEcReTpReFiX.07", "sEcReTpReFiX.10",
		"", ".", "..", "a.18446744073709551616", "eyJhbGciOiJub25lIn0.e30.", "eyJhbGciOiJIUzI1NiJ9.W10.AA", strings.Repeat(".", 1000),
	} {
		f.Add(seed)
	}
	rules := auth.NewRules()
	f.Fuzz(func(t *testing.T, token string) {
		for kind, caller := range map[string]func() (auth.Caller, error){
			"JWT":    func() (auth.Caller, error) { return j.Caller(token) },
			"simple": func() (auth.Caller, error) { return simple.Caller(t.Context(), token, rules) },
		} {
			c, err := caller()
			if err != nil && (!errors.Is(err, auth.ErrInvalidToken) || c != auth.Caller{}) {
				t.Errorf("%s %q: %+v, %v; want ErrInvalidToken and nobody", kind, token, c, err)
			}
			if err == nil && c.User != "ann" {
				t.Errorf("%s %q: passes for %+v", kind, token, c)
			}
			if kind == "simple" && err == nil && token != "sEcReTpReFiX.7" {
				t.Errorf("%q is as good as the token that was issued", token)
			}
		}
	})
}
