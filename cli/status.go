package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"text/tabwriter"
	"time"

	"github.com/urfave/cli/v2"
	clientv3 "go.etcd.io/etcd/client/v3"

	"limpet/cluster"
)

// memberStatus is one row of limpet status, and its JSON form.
type memberStatus struct {
	Endpoint  string   `json:"endpoint"`
	Error     string   `json:"error,omitempty"`
	ID        string   `json:"id,omitempty"`
	Name      string   `json:"name,omitempty"`
	Role      string   `json:"role,omitempty"`
	Version   string   `json:"etcd_version,omitempty"`
	Revision  int64    `json:"revision,omitempty"`
	Term      uint64   `json:"term,omitempty"`
	Applied   uint64   `json:"applied_index,omitempty"`
	Size      int64    `json:"db_size_bytes,omitempty"`
	InUse     int64    `json:"db_size_in_use_bytes,omitempty"`
	Quota     int64    `json:"quota_bytes,omitempty"`
	Trouble   []string `json:"trouble,omitempty"`
	TookMicro int64    `json:"took_us,omitempty"`
}

func statusCommand() *cli.Command {
	return &cli.Command{
		Name:         "status",
		Usage:        "show how the members are",
		Flags:        append(accessFlags(5*time.Second), outputFlag()),
		OnUsageError: usageError,
		Action: func(c *cli.Context) error {
			if o := c.String("output"); o != "text" && o != "json" {
				return badValue("output", o, "text or json")
			}
			a, err := newAccess(c)
			if err != nil {
				return err
			}
			report, _ := askReport(c.Context, a)
			rows, failed := askAll(c.Context, a)
			if err := printStatus(c.App.Writer, report, rows, c.String("output")); err != nil {
				return err
			}
			if failed > 0 {
				return fmt.Errorf("%d of %d members did not answer", failed, len(rows))
			}
			return nil
		},
	}
}

func askAll(ctx context.Context, a *access) (rows []memberStatus, failed int) {
	for _, ep := range a.endpoints {
		row, err := ask(ctx, a, ep)
		if err != nil {
			failed++
			row = memberStatus{Endpoint: ep, Error: err.Error()}
		}
		rows = append(rows, row)
	}
	return rows, failed
}

func ask(ctx context.Context, a *access, endpoint string) (memberStatus, error) {
	ctx, cancel := context.WithTimeout(ctx, a.timeout)
	defer cancel()
	client, err := a.client(endpoint)
	if err != nil {
		return memberStatus{}, err
	}
	defer func() { _ = client.Close() }()
	began := time.Now()
	st, err := client.Status(ctx, endpoint)
	if err != nil {
		return memberStatus{}, a.explain(endpoint, err)
	}
	took := time.Since(began)
	row := memberStatus{
		Endpoint: endpoint, ID: fmt.Sprintf("%x", st.Header.MemberId), Role: "follower", Version: st.Version,
		Revision: st.Header.Revision, Term: st.RaftTerm, Applied: st.RaftAppliedIndex,
		Size: st.DbSize, InUse: st.DbSizeInUse, Quota: st.DbSizeQuota,
		Trouble: st.Errors, TookMicro: took.Microseconds(),
	}
	switch {
	case st.IsLearner:
		row.Role = "learner"
	case st.Leader == st.Header.MemberId:
		row.Role = "leader"
	}
	members, err := client.MemberList(ctx, clientv3.WithSerializable()) // one without a leader answers, too
	if err != nil {
		return row, nil // with auth, whoever may see the status may not see this
	}
	for _, m := range members.Members {
		if m.ID == st.Header.MemberId {
			row.Name = m.Name
		}
	}
	return row, nil
}

// clusterStatus is the JSON form of limpet status.
type clusterStatus struct {
	Cluster   *cluster.Report `json:"cluster,omitempty"` // as the first endpoint that answered sees it
	Endpoints []memberStatus  `json:"endpoints"`
}

func printStatus(w io.Writer, report *cluster.Report, rows []memberStatus, output string) error {
	if output == "json" {
		enc := json.NewEncoder(w)
		enc.SetIndent("", "  ")
		return enc.Encode(clusterStatus{report, rows})
	}
	if report != nil {
		if err := printReport(w, report); err != nil {
			return err
		}
	}
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	_, _ = fmt.Fprintln(tw, "ENDPOINT\tNAME\tID\tROLE\tREVISION\tTERM\tAPPLIED\tDB SIZE\tIN USE\tQUOTA\tANSWERED IN")
	for _, r := range rows {
		if r.Error != "" {
			_, _ = fmt.Fprintf(tw, "%s\t-\t-\tunreachable: %s\n", r.Endpoint, r.Error)
			continue
		}
		_, _ = fmt.Fprintf(tw, "%s\t%s\t%s\t%s\t%d\t%d\t%d\t%s\t%s\t%s\t%s\n", r.Endpoint, r.Name, r.ID, r.Role, r.Revision, r.Term,
			r.Applied, bytesText(r.Size), bytesText(r.InUse), bytesText(r.Quota), time.Duration(r.TookMicro)*time.Microsecond)
	}
	if err := tw.Flush(); err != nil {
		return err
	}
	for _, r := range rows {
		for _, t := range r.Trouble {
			if _, err := fmt.Fprintf(w, "%s: %s\n", r.Endpoint, t); err != nil {
				return err
			}
		}
	}
	return nil
}

func bytesText(n int64) string {
	switch {
	case n < 0:
		return "none"
	case n >= 1<<30:
		return fmt.Sprintf("%.1f GiB", float64(n)/(1<<30))
	case n >= 1<<20:
		return fmt.Sprintf("%.1f MiB", float64(n)/(1<<20))
	}
	return fmt.Sprintf("%.1f KiB", float64(n)/(1<<10))
}
