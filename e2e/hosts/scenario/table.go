//go:build linux

package scenario

import (
	"os"
	"slices"
	"testing"
)

// Scenario is one story.
type Scenario struct {
	Name   string
	Layout Layout
	Tell   func(*testing.T, *Cluster) // with a cluster that was just founded
}

// All are the stories that every Program has to pass.
var All = []Scenario{
	{"LeaderKilled", Layout{}, leaderKilled},
	{"LeaderPaused", Layout{}, leaderPaused},
	{"RollingRestart", Layout{}, rollingRestart},
	{"AllKilled", Layout{}, allKilled},
	{"QuorumLost", Layout{}, quorumLost},
	{"LeaderIsolated", Layout{}, leaderIsolated},
	{"LeaderDeaf", Layout{}, leaderDeaf},
	{"LeaderMute", Layout{}, leaderMute},
	{"FollowerIsolated", Layout{}, followerIsolated},
	{"MinorityRefuses", Layout{}, minorityRefuses},
	{"FollowerOutdated", Layout{ShortLog: true}, followerOutdated},
	{"FollowerOvertaken", Layout{ShortLog: true}, followerOvertaken},
	{"AddressChanged", Layout{}, addressChanged},
	{"AllAddressesChanged", Layout{Finding: true}, allAddressesChanged},
	{"DiskFrozen", Layout{Disks: true}, diskFrozen},
	{"DiskSlow", Layout{Disks: true}, diskSlow},
	{"PowerLoss", Layout{Disks: true}, powerLoss},
	{"MemberAdded", Layout{Spares: 1}, memberAdded},
	{"FollowerRemoved", Layout{}, followerRemoved},
	{"LeaderRemoved", Layout{}, leaderRemoved},
	{"LeasesOutliveTheLeader", Layout{}, leasesOutliveTheLeader},
	{"LeasesOutliveAPause", Layout{}, leasesOutliveAPause},
	{"LeasesAtAStalledLeader", Layout{Disks: true}, leasesAtAStalledLeader},
	{"ProgressAtFollowers", Layout{}, progressAtFollowers},
}

// Long reports whether all stories are to be told: E2E_LONG=1. They take half an
// hour.
func Long() bool { return os.Getenv("E2E_LONG") != "" }

// Run tells stories, each with a cluster of its own: all of them in a Long run,
// else those named.
func Run(t *testing.T, program Program, short ...string) {
	for _, s := range All {
		if !Long() && !slices.Contains(short, s.Name) {
			continue
		}
		t.Run(s.Name, func(t *testing.T) {
			if s.Layout.Finding && !program.FindsMembers {
				t.Skipf("members of %s do not find each other under new addresses", program.Kind)
			}
			s.Tell(t, Found(t, program, s.Layout))
		})
	}
}
