package cli

import "testing"

func TestNewerVersion(t *testing.T) {
	ascending := []string{
		"v0.0.0-20260101120000-abcdef123456", "0.0.0-20261129120000-0123456789ab", "v1.2.0", "v1.2.2-rc.9", "1.2.2-rc.10", "1.2.3-beta",
		"1.2.3-rc1", "v1.2.3-rc1-4-gabcdef1", "1.2.3-rc2", "1.2.3-rc10", "1.2.3", "v1.2.3-1-gabcdef1", "1.2.3-12-gabcdef1", "1.10.0", "v2.0",
	}
	for i, older := range ascending {
		for _, newer := range ascending[i+1:] {
			if !newerVersion(newer, older) || newerVersion(older, newer) {
				t.Errorf("%s is to be newer than %s: got %v, and the other way %v", newer, older, newerVersion(newer, older), newerVersion(older, newer))
			}
		}
	}
	for _, same := range [][2]string{{"1.2.3", "v1.2.3"}, {"1.2", "1.2.0"}, {"1.2.3", "1.2.3-dirty"}, {"1.2.3-4-gabcdef1", "1.2.3-4-gabcdef1-dirty"}, {"1.2.3+a", "1.2.3+b"}, {"dev", "1.2.3"}, {"dev", "1"}} {
		if newerVersion(same[0], same[1]) || newerVersion(same[1], same[0]) {
			t.Errorf("one of %q is newer than the other", same)
		}
	}
}
