package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/urfave/cli/v2"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"limpet/server"
)

func memberCommand() *cli.Command {
	return &cli.Command{
		Name:  "member",
		Usage: "show and change the members of the cluster",
		Description: "New members usually add themselves: start them with the token and --join.\n" +
			"A member that is switched off stays a member; only remove and leave end that.",
		Subcommands: []*cli.Command{
			memberAction("list", "", "show the members", memberList, outputFlag()),
			memberAction("add", "NAME", "announce a member that is started later, with etcd's flags", memberAdd,
				&cli.StringFlag{Name: "peer-urls", Usage: "where the others will reach it; comma-separated", Required: true},
				&cli.BoolFlag{Name: "learner", Usage: "without a vote, until it is promoted"}),
			memberAction("remove", "MEMBER", "take a member out for good; it stops", memberRemove),
			memberAction("promote", "MEMBER", "give a learner a vote", memberPromote),
			leaveCommand(),
			eraseCommand(),
		},
	}
}

func outputFlag() cli.Flag {
	return &cli.StringFlag{Name: "output", Aliases: []string{"o"}, Usage: "text or json", Value: "text"}
}

// memberAction is a subcommand that talks to a cluster. MEMBER is an ID in hex
// or a name.
func memberAction(name, args, usage string, do func(context.Context, *cli.Context, *clientv3.Client) error, flags ...cli.Flag) *cli.Command {
	return &cli.Command{
		Name: name, Usage: usage, ArgsUsage: args, OnUsageError: usageError,
		Flags: append(accessFlags(10*time.Second), flags...),
		Action: func(c *cli.Context) error {
			if want := len(strings.Fields(args)); c.NArg() != want {
				return fmt.Errorf("limpet member %s takes %d arguments, got %d; see limpet member %s --help", name, want, c.NArg(), name)
			}
			a, err := newAccess(c)
			if err != nil {
				return err
			}
			ctx, cancel := context.WithTimeout(c.Context, a.timeout)
			defer cancel()
			client, err := a.client(a.endpoints...)
			if err != nil {
				return err
			}
			defer func() { _ = client.Close() }()
			return a.explain(a.endpoints[0], do(ctx, c, client))
		},
	}
}

func memberList(ctx context.Context, c *cli.Context, client *clientv3.Client) error {
	confirmed, cancel := context.WithTimeout(ctx, c.Duration("timeout")/2)
	defer cancel()
	resp, err := client.MemberList(confirmed)
	if errors.Is(err, context.DeadlineExceeded) {
		// When there is no leader, people want to see who the members are.
		if resp, err = client.MemberList(ctx, clientv3.WithSerializable()); err == nil {
			_, _ = fmt.Fprintln(c.App.ErrWriter, "limpet: no leader confirms this list; it is what the member at the first endpoint that answers knows")
		}
	}
	if err != nil {
		return err
	}
	if c.String("output") == "json" {
		enc := json.NewEncoder(c.App.Writer)
		enc.SetIndent("", "  ")
		return enc.Encode(resp.Members)
	}
	tw := tabwriter.NewWriter(c.App.Writer, 0, 0, 2, ' ', 0)
	_, _ = fmt.Fprintln(tw, "MEMBER\tID\tROLE\tPEERS AT\tCLIENTS AT")
	for _, m := range resp.Members {
		name, role := m.Name, "voter"
		switch {
		case m.Name == "":
			name, role = "-", "not started"
		case m.IsLearner:
			role = "learner"
		}
		_, _ = fmt.Fprintf(tw, "%s\t%x\t%s\t%s\t%s\n", name, m.ID, role, strings.Join(m.PeerURLs, ","), strings.Join(m.ClientURLs, ","))
	}
	return tw.Flush()
}

func memberAdd(ctx context.Context, c *cli.Context, client *clientv3.Client) error {
	add := client.MemberAdd
	if c.Bool("learner") {
		add = client.MemberAddAsLearner
	}
	resp, err := add(ctx, splitList(c.String("peer-urls")))
	if err != nil {
		return err
	}
	var initial []string
	for _, m := range resp.Members {
		name := m.Name
		if m.ID == resp.Member.ID {
			name = c.Args().First()
		}
		for _, u := range m.PeerURLs {
			initial = append(initial, name+"="+u)
		}
	}
	_, err = fmt.Fprintf(c.App.Writer, "member %x was added; start it with\n\n    limpet server --name %s --initial-cluster-state existing \\\n      --initial-advertise-peer-urls %s \\\n      --initial-cluster %s\n",
		resp.Member.ID, c.Args().First(), strings.Join(resp.Member.PeerURLs, ","), strings.Join(initial, ","))
	return err
}

// findMember takes an ID in hex, or a name that only one member has.
func findMember(ctx context.Context, client *clientv3.Client, what string) (*pb.Member, error) {
	resp, err := client.MemberList(ctx)
	if err != nil {
		return nil, err
	}
	id, notID := strconv.ParseUint(what, 16, 64)
	var found []*pb.Member
	for _, m := range resp.Members {
		if notID == nil && m.ID == id {
			return m, nil
		}
		if m.Name == what {
			found = append(found, m)
		}
	}
	switch len(found) {
	case 0:
		return nil, fmt.Errorf("the cluster has no member %s; see limpet member list", what)
	case 1:
		return found[0], nil
	}
	return nil, fmt.Errorf("%d members are called %s; give an ID, see limpet member list", len(found), what)
}

func memberRemove(ctx context.Context, c *cli.Context, client *clientv3.Client) error {
	m, err := findMember(ctx, client, c.Args().First())
	if err != nil {
		return err
	}
	if _, err := client.MemberRemove(ctx, m.ID); err != nil {
		return err
	}
	_, err = fmt.Fprintf(c.App.Writer, "member %x, %s, was removed for good\n", m.ID, m.Name)
	return err
}

func memberPromote(ctx context.Context, c *cli.Context, client *clientv3.Client) error {
	m, err := findMember(ctx, client, c.Args().First())
	if err != nil {
		return err
	}
	if _, err := client.MemberPromote(ctx, m.ID); err != nil {
		return err
	}
	_, err = fmt.Fprintf(c.App.Writer, "member %x, %s, has a vote now\n", m.ID, m.Name)
	return err
}

// leaveCommand asks the member of a data directory itself, whatever its ports,
// users and certificates are; or one at an endpoint.
func leaveCommand() *cli.Command {
	cmd := memberAction("leave", "", "take the member that is asked out of the cluster for good", memberLeave,
		&cli.BoolFlag{Name: "unless-only", Usage: "do nothing if there is no other member"})
	cmd.Description = "Asks the member that runs with --data-dir on this machine, as the user that limpet\n" +
		"runs as; without --data-dir, or with --endpoints, the member at the first endpoint."
	remote := cmd.Action
	cmd.Action = func(c *cli.Context) error {
		if c.String("data-dir") == "" || c.IsSet("endpoints") || c.Args().Present() {
			return remote(c)
		}
		ctx, cancel := context.WithTimeout(c.Context, c.Duration("timeout"))
		defer cancel()
		err := server.AdminOf(c.String("data-dir")).Leave(ctx)
		if errors.Is(err, server.ErrOnlyMember) && c.Bool("unless-only") {
			return nil
		}
		if err != nil {
			return err
		}
		_, err = fmt.Fprintln(c.App.Writer, "the member has left the cluster for good; it stops, and its data directory can be removed")
		return err
	}
	return cmd
}

// eraseCommand is what an uninstallation does.
func eraseCommand() *cli.Command {
	return &cli.Command{
		Name:  "erase",
		Usage: "remove the data of a member that does not run from this machine",
		Description: "Removes what limpet has made in the data directory, the snapshots there included, and\n" +
			"the raft log where --wal-dir has it; files of others stay. The cluster is not told: unless it is gone, too, the\n" +
			"member should have left it, with limpet member leave, or been removed from it.",
		OnUsageError: usageError,
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "data-dir", Usage: "data directory of the stopped member", Required: true},
			&cli.BoolFlag{Name: "yes", Usage: "do not ask"},
		},
		Action: func(c *cli.Context) error {
			if c.Args().Present() {
				return fmt.Errorf("limpet member erase takes no arguments, got %q; see limpet member erase --help", c.Args().First())
			}
			dir := c.String("data-dir")
			if !c.Bool("yes") && !confirmed(c.App.Writer, "All data of the member in "+dir+" goes. Type yes to remove it: ") {
				return errors.New("nothing was changed")
			}
			left, err := server.EraseDataDir(dir)
			if len(left) > 0 {
				_, _ = fmt.Fprintf(c.App.Writer, "what limpet did not make stays in %s: %s\n", dir, strings.Join(left, ", "))
			}
			return err
		},
	}
}

// memberLeave removes the member that answers at the first endpoint.
func memberLeave(ctx context.Context, c *cli.Context, client *clientv3.Client) error {
	st, err := client.Status(ctx, client.Endpoints()[0])
	if err != nil {
		return err
	}
	list, err := client.MemberList(ctx)
	if err != nil {
		return err
	}
	if len(list.Members) == 1 {
		if c.Bool("unless-only") {
			return nil
		}
		return server.ErrOnlyMember
	}
	if _, err := client.MemberRemove(ctx, st.Header.MemberId); err != nil {
		return err
	}
	_, err = fmt.Fprintf(c.App.Writer, "member %x has left the cluster for good; it stops, and its data directory can be removed\n", st.Header.MemberId)
	return err
}
