package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"limpet/api/ops"
	"limpet/cluster"
)

// askReport has the first endpoint that answers tell how the cluster is.
func askReport(ctx context.Context, a *access) (*cluster.Report, error) {
	var errs []error
	for _, ep := range a.endpoints {
		r, err := reportAt(ctx, a, ep)
		if err == nil {
			return r, nil
		}
		errs = append(errs, err)
	}
	return nil, errors.Join(errs...)
}

func reportAt(ctx context.Context, a *access, endpoint string) (*cluster.Report, error) {
	ctx, cancel := context.WithTimeout(ctx, a.timeout)
	defer cancel()
	client, req, err := a.request(ctx, endpoint, ops.ReportPath)
	if err != nil {
		return nil, err
	}
	if err := a.authorize(ctx, endpoint, req); err != nil {
		return nil, err
	}
	resp, err := client.Do(req)
	if err != nil {
		return nil, err
	}
	defer func() { _ = resp.Body.Close() }()
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s: %s", endpoint, resp.Status)
	}
	r := new(cluster.Report)
	return r, json.NewDecoder(io.LimitReader(resp.Body, 1<<20)).Decode(r)
}

// printReport shows the cluster on one screen.
func printReport(w io.Writer, r *cluster.Report) error {
	switch {
	case r.Cluster == "":
		_, _ = fmt.Fprintf(w, "member %s, %s, is in no cluster yet\n", r.Member, r.Name)
	case r.Leader == "":
		_, _ = fmt.Fprintf(w, "cluster %s has no leader that %s can see: nothing can be written\n", r.Cluster, r.Name)
	default:
		_, _ = fmt.Fprintf(w, "cluster %s, seen from %s\n", r.Cluster, r.Name)
	}
	if r.Waiting != "" {
		_, _ = fmt.Fprintf(w, "waiting %s\n", r.Waiting)
	}
	if len(r.Members) > 0 {
		printMembers(w, r)
	}
	if who := holdsBack(r.Members); who != "" {
		_, _ = fmt.Fprintf(w, "the log keeps an older format until these are upgraded: %s\n", who)
	}
	if r.Rotation != nil {
		_, _ = fmt.Fprintf(w, "the token is being replaced: %s\n", rotationText(r))
	}
	for _, o := range r.Others {
		_, _ = fmt.Fprintf(w, "in sight, not of this cluster: %s\n", o)
	}
	for _, n := range r.Notices {
		_, _ = fmt.Fprintf(w, "%s ago: %s\n", time.Since(n.Time).Round(time.Second), n.Text)
	}
	_, err := fmt.Fprintln(w)
	return err
}

// holdsBack names the members that read no newer log entries, if others do.
func holdsBack(members []cluster.MemberReport) string {
	newest := 0
	for _, m := range members {
		newest = max(newest, m.Format)
	}
	var out []string
	for _, m := range members {
		if m.Role != "not started" && m.Format < newest {
			out = append(out, fmt.Sprintf("%s (%s)", m.Name, m.Version))
		}
	}
	return strings.Join(out, ", ")
}

// slowDisk is, in microseconds, a write of the log that holds up a cluster.
const slowDisk = 1_000_000

func printMembers(w io.Writer, r *cluster.Report) {
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	_, _ = fmt.Fprintln(tw, "MEMBER\tID\tROLE\tSTATE\tLAG\tLAST CONTACT\tDISK p99\tVERSION\tPEERS AT")
	// Where nobody answers, not even who tells this, nothing is known of anybody.
	known := slices.ContainsFunc(r.Members, func(m cluster.MemberReport) bool { return m.Answers })
	for _, m := range r.Members {
		name := m.Name
		if name == "" {
			name = "-"
		}
		state, lag, contact, disk := "-", "-", "-", "-"
		if known {
			state = "away"
			switch {
			case m.Answers && m.SyncMicro >= slowDisk:
				state = "slow disk"
			case m.Answers:
				state = "ok"
			}
			lag = fmt.Sprint(m.Lag)
			switch {
			case m.ID == r.Leader, r.Leader == "": // the leader alone counts contacts
			case m.ContactMs < 0:
				contact = "never"
			case m.Answers || m.ContactMs > 0:
				contact = (time.Duration(m.ContactMs) * time.Millisecond).String()
			}
		}
		if m.SyncMicro > 0 {
			disk = (time.Duration(m.SyncMicro) * time.Microsecond).Round(10 * time.Microsecond).String()
		}
		if m.Replaces != "" {
			state += ", replaces " + m.Replaces
		}
		_, _ = fmt.Fprintf(tw, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n", name, m.ID, m.Role, state, lag, contact, disk, m.Version, strings.Join(m.PeerURLs, ","))
	}
	_ = tw.Flush()
}
