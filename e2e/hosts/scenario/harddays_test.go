//go:build linux

package scenario

import "testing"

// TestHardDays: lost and cloned disks, lost quorums, strangers, addresses that change, two versions of
// limpet side by side, and tokens that are made and replaced.
func TestHardDays(t *testing.T) {
	for _, tales := range [][]tale{wiped, recoveries, copies, meetings, moves, upgrades, tokens} {
		tellAll(t, tales, "OneWiped", "RecoverOneStatic", "CopyBesideStatic", "RemovedWhileAway", "OtherToken", "Rotation")
	}
}
