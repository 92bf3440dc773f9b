package side

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"limpet/e2e/proc"
)

// Ctl is a run of etcdctl. Its answer's fields are the exit code and the output, with the figures
// blanked that depend on the moment and its lines sorted: members are printed by ID.
type Ctl struct {
	T      testing.TB
	Binary proc.Kind // etcd's own, or limpet, which has it built in
	Args   []string  // in neutral names
	Input  string    // what it reads
	Adds   int       // the number of the member that is added; 0: none
}

// Run runs the command against the target.
func (c Ctl) Run(ctx context.Context, t *Target) Answer {
	args := []string{"--endpoints=" + t.Server.ClientURL()}
	if c.Binary == proc.Limpet {
		args = []string{"etcdctl", "--endpoints=" + t.Server.ClientURL()}
	}
	for _, arg := range c.Args {
		args = append(args, t.Names.RealText(arg))
	}
	input := func(cmd *exec.Cmd) { cmd.Stdin = strings.NewReader(c.Input) }
	result := proc.Command{Path: proc.Binary(c.T, c.Binary), Args: args, Setup: input}.Run(c.T)
	var a Answer
	if c.Adds != 0 {
		if err := learnMember(ctx, t, c.Adds); err != nil {
			a.broke("%v", err)
		}
	}
	a.set("exit code", fmt.Sprint(result.Code))
	a.set("stdout", plainOutput(t.Names.Text(result.Stdout)))
	a.set("stderr", plainOutput(t.Names.Text(result.Stderr)))
	return a
}

// learnMember binds the ID of the member that has the n-th peer URL. It asks for the list that t has
// itself: etcd has no quorum while the second of two members has not started.
func learnMember(ctx context.Context, t *Target, n int) error {
	resp, err := pb.NewClusterClient(t.Conn).MemberList(ctx, &pb.MemberListRequest{})
	if err != nil {
		return err
	}
	t.Names.ToNeutral(resp)
	for _, m := range resp.Members {
		if slices.Contains(m.PeerURLs, PeerURL(n)) {
			t.Names.Bind(MemberID(n), m.ID)
			return nil
		}
	}
	return fmt.Errorf("no member has %s", PeerURL(n))
}

// blanks are figures of the moment, by the form in which etcdctl prints them.
var blanks = []struct {
	figure *regexp.Regexp
	blank  string
}{
	{regexp.MustCompile(`[0-9.]+(µs|ms|s)\b`), "TIME"},
	{regexp.MustCompile(`\b[0-9.]+ [kMG]?B\b`), "SIZE"},
	{regexp.MustCompile(`\b[0-9]+%`), "SHARE"},
	{regexp.MustCompile(`(?i)("(?:raft_?term|raft_?index|raft_?applied_?index|dbsize|dbsizeinuse)" ?: ?)[0-9]+`), "${1}N"},
	{regexp.MustCompile(` [0-9]+(,| │)`), " N$1"},
	{regexp.MustCompile(` +│`), " │"}, // columns are as wide as the widest ID
	{regexp.MustCompile(`│ +`), "│ "},
	{regexp.MustCompile(`─+`), "─"},
	{regexp.MustCompile(` {2,}`), " "}, // IDs are padded where their first digits are zeros
	// What the client library logs.
	{regexp.MustCompile(`(?:"(?:ts|target)":"|\b(?:Local)?Addr: ')[^"']*`), "WHERE AND WHEN"},
}

// plainOutput makes two outputs comparable that say the same.
func plainOutput(text string) string {
	if sorted, err := sortedJSON(text); err == nil {
		text = sorted
	}
	for _, b := range blanks {
		text = b.figure.ReplaceAllString(text, b.blank)
	}
	lines := strings.Split(text, "\n")
	for i, line := range lines {
		if name, value, ok := strings.Cut(line, "=\""); ok && strings.Contains(value, ",") {
			parts := strings.Split(strings.TrimSuffix(value, `"`), ",")
			slices.Sort(parts)
			lines[i] = name + `="` + strings.Join(parts, ",") + `"`
		}
	}
	slices.Sort(lines)
	return strings.TrimSpace(strings.Join(lines, "\n"))
}

// sortedJSON gives a JSON text with its lists in the order of their elements' texts.
func sortedJSON(text string) (string, error) {
	decoder := json.NewDecoder(strings.NewReader(text))
	decoder.UseNumber() // IDs have more digits than a float holds
	var v any
	if err := decoder.Decode(&v); err != nil {
		return "", err
	}
	if _, err := decoder.Token(); !errors.Is(err, io.EOF) {
		return "", errors.New("more than one JSON value") // as it also is when a line begins with a number
	}
	sorted, err := json.Marshal(sortLists(v))
	return string(sorted), err
}

func sortLists(v any) any {
	switch v := v.(type) {
	case map[string]any:
		for name, value := range v {
			v[name] = sortLists(value)
		}
	case []any:
		texts := make([]json.RawMessage, len(v))
		for i := range v {
			text, err := json.Marshal(sortLists(v[i]))
			if err != nil {
				panic(err) // a value that was decoded a moment ago
			}
			texts[i] = text
		}
		slices.SortFunc(texts, func(a, b json.RawMessage) int { return bytes.Compare(a, b) })
		return texts
	}
	return v
}

func (c Ctl) String() string {
	return fmt.Sprintf("%s etcdctl %s", c.Binary, strings.Join(c.Args, " "))
}
