package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"limpet/e2e/side"
)

// TestSideBySide sends the same generated requests to etcd and to the subject. E2E_SEED runs one
// seed only, E2E_SEEDS that many, E2E_STEPS sets the steps of each,
// E2E_MISMATCHES how many end a session early.
func TestSideBySide(t *testing.T) {
	first, seeds := 1, number(t, "E2E_SEEDS", 6)
	if os.Getenv("E2E_SEED") != "" {
		first, seeds = number(t, "E2E_SEED", 1), 1
	}
	steps := number(t, "E2E_STEPS", 2000)
	mismatches := number(t, "E2E_MISMATCHES", 8)
	for seed := first; seed < first+seeds; seed++ {
		t.Run(fmt.Sprintf("seed=%d", seed), func(t *testing.T) {
			s := side.NewSession(t, uint64(seed), subject())
			s.MaxMismatches = mismatches
			s.Run(steps)
		})
	}
}

// TestAuthSideBySide is TestSideBySide among users, with tokens of both kinds, on one member and on
// three. E2E_SEED, E2E_SEEDS and E2E_STEPS have the same meaning; the seed decides where it plays.
func TestAuthSideBySide(t *testing.T) {
	first, seeds := 1, number(t, "E2E_SEEDS", 5)
	if os.Getenv("E2E_SEED") != "" {
		first, seeds = number(t, "E2E_SEED", 1), 1
	}
	for seed := first; seed < first+seeds; seed++ {
		size, steps, token := 1, 1200, "simple"
		if seed%5 == 4 {
			size, steps = 3, 500
		}
		if seed%5 == 0 {
			token = "jwt,sign-method=HS256,ttl=10m,priv-key=" + secretFile(t)
		}
		t.Run(fmt.Sprintf("seed=%d", seed), func(t *testing.T) {
			s := side.NewAuthSession(t, uint64(seed), subject(), size, cheapHash, "--auth-token="+token)
			s.MaxMismatches = number(t, "E2E_MISMATCHES", 8)
			s.Run(number(t, "E2E_STEPS", steps))
		})
	}
}

// secretFile writes a key that both servers sign tokens with.
func secretFile(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "secret")
	writeFile(t, path, []byte("a secret that both sides know"))
	return path
}
