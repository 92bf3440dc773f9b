//go:build linux

package scenario

import (
	"strings"
	"testing"

	"limpet/e2e/proc"
)

const (
	token       = "00112233445566778899aabbccddeeff"
	tookImage   = "adopted the database of the leader"
	shortLog    = "--max-log-bytes=1048576"
	expectThree = "--bootstrap-expect=3"
)

// static are limpets that were given etcd's flags.
var static = Program{
	Kind: proc.Limpet,
	Flags: func(m *Member, members []*Member, founding bool) []string {
		flags := etcdFlags(m, members, founding)
		for i, f := range flags {
			if strings.HasPrefix(f, "--snapshot-c") {
				flags = flags[:i]
				break
			}
		}
		return append(append([]string{"server"}, flags...), limpetFlags(m)...)
	},
	TookImage: tookImage,
}

// gossip are limpets that have a token and find each other.
var gossip = Program{
	Kind: proc.Limpet,
	Flags: func(m *Member, members []*Member, founding bool) []string {
		flags := append([]string{"server"}, limpetFlags(m)...)
		flags = append(flags,
			"--name="+m.Name, "--data-dir="+m.DataDir, "--token="+token,
			"--listen-client-urls=http://0.0.0.0:2379", "--advertise-client-urls="+m.ClientURL(),
		)
		if founding {
			return append(flags, expectThree)
		}
		return append(flags, "--join="+members[0].Host.IP().String())
	},
	TookImage: tookImage, PromotesLearners: true, FindsMembers: true,
}

func limpetFlags(m *Member) []string {
	if m.ShortLog {
		return []string{"--snapshot-count=100", shortLog}
	}
	return nil
}

// TestStatic: limpets in place of etcds, with the same flags.
func TestStatic(t *testing.T) {
	Run(t, static, "LeaderKilled", "AllKilled", "LeaderIsolated", "FollowerOvertaken", "PowerLoss", "MemberAdded")
}

// TestGossip: limpets that find each other with a token.
func TestGossip(t *testing.T) {
	Run(t, gossip, "AllAddressesChanged")
}
