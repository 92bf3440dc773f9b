//go:build linux

package scenario

import "testing"

// TestHardDays: lost and cloned disks, strangers, and addresses that change.
func TestHardDays(t *testing.T) {
	for _, tales := range [][]tale{wiped, copies, meetings, moves} {
		tellAll(t, tales, "OneWiped", "CopyBesideStatic", "RemovedWhileAway", "OtherToken")
	}
}
