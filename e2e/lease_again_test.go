package e2e

import (
	"fmt"
	"testing"

	"limpet/e2e/side"
)

// TestLeaseGrantedAgain grants an ID, revokes it and grants it again, all of which a restart after a
// crash replays from the log at once.
func TestLeaseGrantedAgain(t *testing.T) {
	pair := side.NewPair(t, subject())
	pair.Do(grant(5, 5000))
	pair.Do(revoke(5))
	for i := range 30 {
		pair.Do(put("y", fmt.Sprint(i)))
	}
	pair.Do(grant(5, 86400))
	pair.Do(putLeased("x", 5))
	for _, target := range pair.Targets() {
		target.Disconnect()
		target.Server.Kill()
		target.Server.Run()
		target.Connect(t)
	}
	pair.Do(leases())
	pair.Do(timeToLive(5))
	pair.Do(side.KeepAlive{IDs: []int64{5}})
}
