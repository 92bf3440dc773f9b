package e2e

import (
	"fmt"
	"os"
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
