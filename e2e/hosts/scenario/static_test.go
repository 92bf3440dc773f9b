//go:build linux

package scenario

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// staticWays are how members come in that were given etcd's flags.
var staticWays = []tale{
	{"StaticAdded", static, 4, func(t *testing.T, c *Cluster) { staticAdded(t, c) }},
	{"StaticLearner", static, 4, func(t *testing.T, c *Cluster) { staticAdded(t, c, "--learner") }},
	{"PrintedCommand", static, 4, printedCommand},
}

// staticInOrder starts members that name each other, each once those before it have said whom they
// miss.
func staticInOrder(t *testing.T, c *Cluster, order [founders]int) {
	b := c.enlist(founders)
	for i, turn := range order {
		b[turn].founding = true
		b[turn].Start()
		if i+1 == founders {
			break
		}
		missed := slices.Min(order[i+1:])
		for _, before := range order[:i+1] {
			b[before].tells("waiting for all members of --initial-cluster to start", b[missed].Name+" is missing")
		}
	}
	holds(t, c)
}

// announced is how etcdctl member add tells what the new member is to be started with.
var announced = regexp.MustCompile(`(?m)^(ETCD_[A-Z_]+)="(.*)"$`)

// staticAdded starts a fourth member with what etcdctl member add prints, and nothing else.
func staticAdded(t *testing.T, c *Cluster, how ...string) {
	b := c.foundAny()
	s := begin(t, c)
	added := c.spares[0]
	// The peer port is the default, so that the variables printed are enough.
	said := s.announce(b[1], append([]string{"etcdctl", "member", "add", added.Name, "--peer-urls=" + added.PeerURL()}, how...)...)
	for _, match := range announced.FindAllStringSubmatch(said, -1) {
		added.Process.Env = append(added.Process.Env, match[1]+"="+match[2])
	}
	s.members = append(s.members, added)
	added.launch()
	if len(how) > 0 {
		s.promoted(b[2], added)
	}
	c.voters(c.members...)
	s.watch(added, true)
	s.needs(added)
	s.end()
}

// announce adds a member by a command, and returns what that says. As in etcd, a cluster whose members
// have only just met refuses at first.
func (s *story) announce(via *Member, command ...string) (said string) {
	s.t.Helper()
	s.Eventually(fmt.Sprint(command), func(context.Context) error {
		r := via.command(command...)
		if said = r.Stdout; r.Code != 0 {
			return errors.New(r.Stderr)
		}
		return nil
	})
	return said
}

// launch starts a member that is told by variables, or by more flags, who it is.
func (m *Member) launch(flags ...string) {
	m.cluster.t.Helper()
	m.Process.Launch(append([]string{
		"server", "--data-dir=" + m.DataDir, "--listen-peer-urls=http://0.0.0.0:2380",
		"--listen-client-urls=http://0.0.0.0:2379", "--advertise-client-urls=" + m.ClientURL(),
	}, flags...)...)
}

// promoted has a user promote a learner through etcdctl, once that works.
func (s *story) promoted(via, learner *Member) {
	s.t.Helper()
	s.Eventually("promote "+learner.Name, func(ctx context.Context) error {
		status, err := learner.Status(ctx)
		if err != nil {
			return err
		}
		if !status.IsLearner {
			s.t.Fatalf("%s votes, and nobody has promoted it", learner.Name)
		}
		id := fmt.Sprintf("%x", status.Header.MemberId)
		if r := via.command("etcdctl", "member", "promote", id); r.Code != 0 {
			return fmt.Errorf("etcdctl member promote %s: %s", id, r.Stderr)
		}
		return nil
	})
}

// printedCommand runs what limpet member add says that one is to run.
func printedCommand(t *testing.T, c *Cluster) {
	b := c.foundAny()
	s := begin(t, c)
	added := c.spares[0]
	said := s.announce(b[2], "member", "add", "--peer-urls="+added.PeerURL(), added.Name)
	_, line, _ := strings.Cut(said, "limpet server ")
	s.members = append(s.members, added)
	added.launch(strings.Fields(strings.ReplaceAll(line, "\\\n", ""))...)
	c.voters(c.members...)
	s.watch(added, true)
	s.needs(added)
	s.end()
}
