//go:build linux

package scenario

import "testing"

// TestHardDays: lost and cloned disks, lost quorums, strangers, addresses that change, and two
// versions of limpet side by side.
func TestHardDays(t *testing.T) {
	for _, tales := range [][]tale{wiped, recoveries, copies, meetings, moves, upgrades} {
		tellAll(t, tales, "OneWiped", "RecoverOneStatic", "CopyBesideStatic", "RemovedWhileAway", "OtherToken")
	}
}
