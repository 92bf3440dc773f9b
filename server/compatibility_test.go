package server

import (
	"maps"
	"net/http"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/genproto/googleapis/api/annotations"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
)

// row is one of a table in docs/compatibility.md.
type row struct{ state, how string }

var quoted = regexp.MustCompile("`([^`]+)`")

// compatibility reads the table of a section; a row with several names counts
// under each.
func compatibility(t *testing.T, section string) map[string]row {
	t.Helper()
	text, err := os.ReadFile("../docs/compatibility.md")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, found := strings.Cut(string(text), "\n## "+section+"\n")
	if !found {
		t.Fatalf("there is no section %s", section)
	}
	rest, _, _ = strings.Cut(rest, "\n## ")
	rows := map[string]row{}
	for line := range strings.Lines(rest) {
		cells := strings.Split(strings.TrimSpace(line), "|")
		if len(cells) < 5 || !strings.Contains(cells[1], "`") {
			continue
		}
		r := row{strings.TrimSpace(cells[2]), strings.TrimSpace(strings.Join(cells[3:len(cells)-1], "|"))}
		if !slices.Contains([]string{"works", "differs", "no effect", "refused"}, r.state) || r.state != "works" && r.how == "" {
			t.Errorf("%s: a row has state %q and says %q: %s", section, r.state, r.how, line)
		}
		for _, name := range quoted.FindAllStringSubmatch(cells[1], -1) {
			if _, twice := rows[name[1]]; twice {
				t.Errorf("%s: %s has two rows", section, name[1])
			}
			rows[name[1]] = r
		}
	}
	return rows
}

// wantRows compares a table with what there is.
func wantRows(t *testing.T, section string, rows map[string]row, have []string) {
	t.Helper()
	for _, name := range have {
		if _, ok := rows[name]; !ok {
			t.Errorf("%s: %s has no row in docs/compatibility.md", section, name)
		}
	}
	for name := range rows {
		if !slices.Contains(have, name) {
			t.Errorf("%s: docs/compatibility.md has a row for %s, which is not there", section, name)
		}
	}
}

// calls are the gRPC methods that a member serves.
func calls(m *member) []string {
	var out []string
	for service, info := range m.grpc.GetServiceInfo() {
		for _, method := range info.Methods {
			out = append(out, service+"/"+method.Name)
		}
	}
	return out
}

func TestCompatibilityOfCalls(t *testing.T) {
	wantRows(t, "gRPC", compatibility(t, "gRPC"), calls(start(t, newConfig(t))))
}

// paths are those that the descriptor of a call gives it in the gateway.
func paths(t *testing.T, call string) []string {
	t.Helper()
	d, err := protoregistry.GlobalFiles.FindDescriptorByName(protoreflect.FullName(strings.ReplaceAll(call, "/", ".")))
	if err != nil {
		t.Fatal(err)
	}
	rule, _ := proto.GetExtension(d.Options(), annotations.E_Http).(*annotations.HttpRule)
	var out []string
	for _, r := range append(rule.GetAdditionalBindings(), rule) {
		if at := r.GetPost(); at != "" {
			out = append(out, at)
		}
	}
	return out
}

// Every path of the gateway has a row that names its call, and no other has one.
func TestCompatibilityOfTheGateway(t *testing.T) {
	m := start(t, newConfig(t))
	rows := compatibility(t, "JSON gateway")
	var have []string
	for _, call := range calls(m) {
		for _, at := range paths(t, call) {
			have = append(have, at)
			if how := rows[at].how; !strings.HasPrefix(how, "`"+call+"`") {
				t.Errorf("the row of %s says %q, want it to name %s", at, how, call)
			}
		}
	}
	wantRows(t, "JSON gateway", rows, have)
}

// Every page has a row, which says whether it is there.
func TestCompatibilityOfPages(t *testing.T) {
	cfg := newConfig(t)
	cfg.Pprof = true
	m := start(t, cfg)
	rows := compatibility(t, "HTTP pages")
	if len(rows) == 0 {
		t.Error("there are no rows")
	}
	for page, r := range rows {
		code, _ := httpGet(t, m.cfg.ListenClientURLs[0]+page)
		if (code == http.StatusOK) != (r.state != "refused") {
			t.Errorf("GET %s: got %d, and its row says that it %s", page, code, r.state)
		}
	}
}

// v2Path is one in a row about v2, but for where names of keys and members begin.
var v2Path = regexp.MustCompile(`/v2/[a-z/]+`)

// Every path of v2 that has a row is one of v2's, and none is where v2 is off.
func TestCompatibilityOfV2(t *testing.T) {
	on := start(t, newConfig(t))
	cfg := newConfig(t)
	cfg.V2 = false
	off := start(t, cfg)
	const nowhere = "404 page not found\n"
	asked := 0
	for name := range compatibility(t, "v2 API") {
		path := v2Path.FindString(name)
		if path == "" {
			continue
		}
		asked++
		if code, body := httpGet(t, on.cfg.ListenClientURLs[0]+path); body == nowhere {
			t.Errorf("%s: got %d %q", path, code, body)
		}
		if code, body := httpGet(t, off.cfg.ListenClientURLs[0]+path); body != nowhere {
			t.Errorf("%s without v2: got %d %q, want %q", path, code, body, nowhere)
		}
	}
	if asked < 10 {
		t.Errorf("%d rows have a path, want those of keys, members, machines, stats and auth", asked)
	}
}

// Every metric of etcd's names has a row, and every row its metric. Go's
// collectors and limpet's own have one for all.
func TestCompatibilityOfMetrics(t *testing.T) {
	rows := compatibility(t, "Metrics")
	shown := map[string]bool{}
	for _, m := range startThree(t) {
		if _, err := pb.NewLeaseClient(m.conn).LeaseGrant(t.Context(), &pb.LeaseGrantRequest{TTL: 10}); err != nil {
			t.Fatal(err)
		}
		m.put("a", "1")
		for _, page := range []string{"/readyz", "/health"} {
			httpGet(t, m.cfg.ListenClientURLs[0]+page)
		}
		_, body := httpGet(t, m.cfg.ListenClientURLs[0]+"/metrics")
		for _, found := range regexp.MustCompile(`(?m)^# TYPE (\w+) `).FindAllStringSubmatch(body, -1) {
			shown[found[1]] = true
		}
	}
	for name := range shown {
		if family, _, _ := strings.Cut(name, "_"); !strings.HasPrefix(name, "limpet_") && rows[name].state == "" && rows[family+"_*"].state == "" {
			t.Errorf("%s has no row in docs/compatibility.md", name)
		}
		if rows[name].state == "refused" {
			t.Errorf("docs/compatibility.md says that there is no %s", name)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(rows)) {
		switch r := rows[name]; {
		case shown[name], r.state == "refused", strings.HasSuffix(name, "_*"), strings.HasPrefix(name, "etcd_network_snapshot_"): // of images, once one was sent
		case name == "grpc_server_handling_seconds": // TestExtensiveMetrics
		default:
			t.Errorf("docs/compatibility.md has a row for %s, which no member shows", name)
		}
	}
}

// flagLine is one of the help that names a flag.
var flagLine = regexp.MustCompile(`(?m)^  (--[a-z0-9.-]+)`)

// ownFlag is a row of the table of flags that etcd does not have.
var ownFlag = regexp.MustCompile("(?m)^\\| `(--[a-z0-9-]+)` \\| [^|]+ \\|$")

// flagsIn are those that match, in order.
func flagsIn(text string, line *regexp.Regexp) []string {
	var out []string
	for _, found := range line.FindAllStringSubmatch(text, -1) {
		out = append(out, found[1])
	}
	return out
}

// Every flag of limpet server has a row, and every row its flag; help and row agree
// on which have no effect.
func TestCompatibilityOfFlags(t *testing.T) {
	help, err := os.ReadFile("../cli/testdata/server-help.txt") // which cli.TestServerHelp keeps true
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile("../docs/compatibility.md")
	if err != nil {
		t.Fatal(err)
	}
	rows, own := compatibility(t, "Flags"), flagsIn(string(text), ownFlag)
	_, last, _ := strings.Cut(string(help), "\nAccepted for compatibility:\n")
	idle := flagsIn(last, flagLine)
	if len(idle) < 90 || len(own) < 5 {
		t.Fatalf("%d flags without effect in the help, %d of limpet's own in the document: they are written otherwise now", len(idle), len(own))
	}
	have := slices.DeleteFunc(flagsIn(string(help), flagLine), func(f string) bool { return slices.Contains(own, f) })
	wantRows(t, "Flags", rows, have)
	for _, f := range have {
		if without := slices.Contains(idle, f); without && rows[f].state == "works" || !without && rows[f].state == "no effect" {
			t.Errorf("docs/compatibility.md says of %s: %s; the help has it among those without effect: %v", f, rows[f].state, without)
		}
	}
}
