//go:build linux

package scenario

import (
	"slices"
	"testing"
)

// copies are stories of cloned disks.
var copies = []tale{
	{"CopyBeside", board, 4, copyBeside},
	{"CopyBesideStatic", static, 4, copyBeside},
	{"CopyMovedBesideStatic", static, 4, copyMovedBeside},
	{"CopyFirst", board, 4, copyFirst},
	{"CopyFirstStatic", static, 4, copyFirst},
}

const runsElsewhere = "another limpet runs with a copy of this data directory"

// copyBeside starts a copy of a member's data on another host, configured like the original, while
// that one runs.
func copyBeside(t *testing.T, c *Cluster) {
	c.foundAny()
	beside(t, c, func(m *Member) *Member { return c.cloneOf(m, m) })
}

// copyMovedBeside is the same, but the copy says where it really is.
func copyMovedBeside(t *testing.T, c *Cluster) {
	c.foundAny()
	beside(t, c, func(m *Member) *Member { return c.cloneOf(m, c.spares[0]) })
}

// beside has a leader and a follower cloned: the clones end, and the cluster does not notice.
func beside(t *testing.T, c *Cluster, cloned func(*Member) *Member) {
	t.Helper()
	before := c.voters(c.members...)
	s := begin(t, c)
	leader := c.Leader(c.members...)
	for _, original := range []*Member{leader, c.Others(leader)[0]} {
		clone := cloned(original)
		s.goesOn()
		clone.endsWith(1, runsElsewhere)
		clone.wipe()
		s.goesOn()
	}
	if after := c.voters(c.members...); !slices.Equal(before, after) {
		t.Errorf("the members are %x after copies were started, want %x", after, before)
	}
	s.end()
}

// copyFirst moves a member that was stopped to another host by copying its data. Whoever is started
// first goes on as the member, the other one is refused.
func copyFirst(t *testing.T, c *Cluster) {
	c.foundAny()
	before := c.voters(c.members...)
	s := begin(t, c)
	original := c.Others(c.Leader(c.members...))[0]
	original.Stop()
	clone := c.cloneOf(original, c.spares[0])
	clone.Serves()
	original.Start()
	original.endsWith(1, runsElsewhere)
	s.forget(original)
	s.members = append(s.members, clone)
	s.watch(clone, true)
	after := c.voters(c.members...)
	slices.Sort(before)
	slices.Sort(after)
	if !slices.Equal(before, after) {
		t.Errorf("the members are %x after one was copied, want %x", after, before)
	}
	s.needs(clone)
	s.end()
}

// cloneOf starts a copy of the original's data on the spare host. It is configured as the original,
// but for the addresses, which are those of placed.
func (c *Cluster) cloneOf(original, placed *Member) *Member {
	c.t.Helper()
	clone := c.spares[0]
	original.copyTo(clone)
	who := *original
	who.Host, who.DataDir = placed.Host, clone.DataDir
	members := slices.Clone(c.members)
	members[slices.Index(members, original)] = &who
	clone.Process.Env = original.Process.Env
	clone.Process.Launch(c.Program.Flags(&who, members, who.founding)...)
	return clone
}
