package discovery

import (
	"bytes"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"
)

func TestMemberLog(t *testing.T) {
	var out bytes.Buffer
	var suspects, complaints []string
	now := time.Unix(0, 0)
	l := &memberLog{
		log: slog.New(slog.NewTextHandler(&out, nil)), now: func() time.Time { return now },
		suspected: func(node string) { suspects = append(suspects, node) },
		complain:  func(remote, advice string) { complaints = append(complaints, remote+": "+advice) },
		where: func(node string) string {
			if node == "known" {
				return "10.0.0.9:2382"
			}
			return ""
		},
	}
	// said writes a line and returns the warning that became of it.
	said := func(line string) string {
		out.Reset()
		if n, err := fmt.Fprintln(l, line); n != len(line)+1 || err != nil {
			t.Fatalf("Write: %d, %v", n, err)
		}
		return out.String()
	}
	expect := func(line, advice, remote string) {
		t.Helper()
		before := len(complaints)
		got := said(line)
		if advice == "" && got != "" || !strings.Contains(got, advice) || !strings.Contains(got, remote) {
			t.Errorf("%q: got %q, want %q with %q", line, got, advice, remote)
		}
		if new := complaints[before:]; (got != "") != (len(new) == 1) || got != "" && !strings.Contains(new[0], advice) {
			t.Errorf("%q: complaints %q, want what is logged", line, new)
		}
	}

	const packet = "[ERR] memberlist: Decrypt packet failed: no installed keys could decrypt the message from=%s"
	expect(fmt.Sprintf(packet, "10.0.0.1:2382"), "its token differs", "remote=10.0.0.1:2382")
	expect(fmt.Sprintf(packet, "10.0.0.1:40000"), "", "") // the same host
	expect(fmt.Sprintf(packet, "10.0.0.2:2382"), "its token differs", "remote=10.0.0.2:2382")
	now = now.Add(warnEvery)
	expect(fmt.Sprintf(packet, "10.0.0.1:2382"), "its token differs", "remote=10.0.0.1:2382")

	expect("[DEBUG] memberlist: failed to join 10.0.0.3:2382: no installed keys could decrypt the message", "its token differs", "remote=10.0.0.3:2382")
	expect("[ERR] memberlist: Push/Pull with known failed: no installed keys could decrypt the message", "its token differs", "remote=10.0.0.9:2382")
	expect("[WARN] memberlist: Was able to connect to known over TCP but UDP probes failed, network may be misconfigured", "let UDP packets", "remote=10.0.0.9:2382")
	expect("[ERR] memberlist: failed to receive: encryption is configured but remote state is not encrypted from=10.0.0.4:1", "without a token", "10.0.0.4:1")
	expect("[DEBUG] memberlist: failed to join 10.0.0.5:1: remote state is encrypted and encryption is not configured", "this member has none", "10.0.0.5:1")
	expect("[ERR] memberlist: Decrypt packet failed: unsupported encryption version 71 from=10.0.0.6:80", "", "")

	if expect("[INFO] memberlist: Suspect n1 has failed, no acks received", "", ""); len(suspects) != 1 || suspects[0] != "n1" {
		t.Errorf("got suspects %q, want n1", suspects)
	}

	// Forged sources neither fill memory nor the log.
	warnings := 0
	for i := range 1000 {
		if said(fmt.Sprintf(packet, fmt.Sprintf("10.1.%d.%d:1", i/256, i%256))) != "" {
			warnings++
		}
	}
	if warnings > maxWarned || len(l.warned) > maxWarned+1 {
		t.Errorf("got %d warnings and %d hosts remembered, want at most %d", warnings, len(l.warned), maxWarned)
	}
}
