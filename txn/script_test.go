package txn

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/datadriven"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.uber.org/goleak"
	"google.golang.org/protobuf/encoding/prototext"
	"google.golang.org/protobuf/proto"

	"limpet/auth"
	"limpet/sqlstore"
	"limpet/v2tree"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// TestScripts runs testdata/*.txt. Requests are etcd's, in protobuf's text form.
// Verbs:
//
//	open        an empty state
//	apply       one command a line, in one batch:
//	            put|delete|txn|compact|grant|revoke|alarm REQUEST,
//	            found|member|madd|mremove|mupdate|mpromote|mrelease|login|rotate JSON
//	            v2auth JSON of an auth.V2Change
//	            v2 JSON of a v2tree.Request | expire JSON
//	            enable|disable|useradd|userdel|passwd|grantrole|revokerole|roleadd|
//	            roledel|permit|withdraw REQUEST of etcd's Auth service
//	            as:USER@REVISION and one of these: that caller's
//	range REQUEST | readtxn REQUEST     from the published view
//	compare     which results hold for each line
//	chunk KEY END limit=N
//	cost        what each line would cost
//	readonly    what each txn line is
//	state       leases, alarms, cluster, members, rules
//	v2          the v2 keyspace: index, what is due, and what lies in the root
//	effects     since the last call
//	lease ID    the keys attached
//	reopen      the state from disk
func TestScripts(t *testing.T) {
	datadriven.Walk(t, "testdata", func(t *testing.T, path string) {
		sc := &script{}
		datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
			sc.t, sc.d = t, d
			return sc.run()
		})
	})
}

type script struct {
	t  *testing.T
	d  *datadriven.TestData
	at *machine
}

// machine is a store with the state over it.
type machine struct {
	path  string
	store *sqlstore.Store
	state *State
}

func openMachine(t testing.TB, path string) *machine {
	t.Helper()
	store, err := sqlstore.Open(sqlstore.Config{Path: path, FlushAge: 24 * time.Hour, TailBytes: -1})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = store.Close() })
	state, err := Load(store)
	if err != nil {
		t.Fatal(err)
	}
	return &machine{path, store, state}
}

func newMachine(t testing.TB) *machine {
	return openMachine(t, filepath.Join(t.TempDir(), "limpet.db"))
}

func (m *machine) publish() { m.state.kv.Publish(m.store.Applied() + 1) }

func (m *machine) flush(t testing.TB) {
	t.Helper()
	if err := m.store.WaitDurable(context.Background(), m.store.Applied()); err != nil {
		t.Fatal(err)
	}
}

func (sc *script) run() string {
	switch sc.d.Cmd {
	case "open":
		sc.at = newMachine(sc.t)
		return ""
	case "reopen":
		if err := sc.at.store.Close(); err != nil {
			return err.Error()
		}
		sc.at = openMachine(sc.t, sc.at.path)
		return ""
	case "apply":
		return sc.each(func(cmd Command) string {
			resp, err := sc.at.state.Apply(cmd, Moment{Index: 7, UnixMilli: 1_700_000_000_000})
			return answer(resp, err)
		})
	case "cost":
		return sc.each(func(cmd Command) string { return fmt.Sprint(Cost(cmd)) })
	case "readonly":
		return sc.each(func(cmd Command) string {
			r := cmd.(*pb.TxnRequest)
			return fmt.Sprintf("read-only %v, serializable %v", ReadOnly(r), Serializable(r))
		})
	case "range":
		var out strings.Builder
		for line := range strings.SplitSeq(sc.d.Input, "\n") {
			r := new(pb.RangeRequest)
			sc.parse(line, r)
			resp, err := Range(sc.at.store.View(), r)
			fmt.Fprintln(&out, answer(resp, err))
		}
		return out.String()
	case "readtxn":
		r := new(pb.TxnRequest)
		sc.parse(sc.d.Input, r)
		return answer(ReadTxn(sc.at.store.View(), r))
	}
	return sc.inspect()
}

func (sc *script) inspect() string {
	switch sc.d.Cmd {
	case "compare":
		return sc.compare()
	case "chunk":
		limit := 0
		sc.d.ScanArgs(sc.t, "limit", &limit)
		key, end := sc.d.CmdArgs[0].Key, sc.d.CmdArgs[1].Key
		if end == "+" {
			end = ""
		}
		resp, next, err := Chunk(sc.at.store.View(), key, end, limit, sc.d.HasArg("keys-only"))
		return fmt.Sprintf("%s\nnext %q", answer(resp, err), next)
	case "state":
		st := sc.at.state
		var out strings.Builder
		id, recovered := st.Cluster()
		fmt.Fprintf(&out, "leases %v\nalarms %v\ncluster %d from %d, removed %v\n", st.Leases(), st.Alarms(), id, recovered, st.Removed())
		if st.Rotation() != (Rotation{}) {
			fmt.Fprintf(&out, "rotation %s\n", encode(st.Rotation()))
		}
		for _, m := range st.Members() {
			fmt.Fprintf(&out, "%s\n", encode(m))
		}
		for _, r := range st.Rules().Records(auth.NewRules()) {
			fmt.Fprintf(&out, "%s %s %s\n", r.Kind, r.Name, r.Data)
		}
		return out.String()
	case "v2":
		v := sc.at.state.V2()
		out := fmt.Sprintf("index %d, due %d\n", v.Index(), v.Due())
		for path, n := range v.List("/") {
			out += fmt.Sprintf("%s %+v\n", path, *n)
		}
		return out
	case "effects":
		e := sc.at.state.TakeEffects()
		v2 := ""
		if e.V2 { // most scripts are of v3
			v2 = fmt.Sprintf(" and %d events of v2", len(e.V2Events))
		}
		e.V2Events = nil
		return strings.Replace(fmt.Sprintf("%+v", e), fmt.Sprintf(" V2:%v V2Events:[]", e.V2), v2, 1)
	case "lease":
		var id int64
		if _, err := fmt.Sscan(sc.d.CmdArgs[0].Key, &id); err != nil {
			sc.t.Fatal(err)
		}
		keys := sc.at.store.LeaseKeys(id)
		slices.Sort(keys)
		return strings.Join(keys, " ")
	}
	sc.d.Fatalf(sc.t, "no verb %q", sc.d.Cmd)
	return ""
}

// compare evaluates each line with every result there is.
func (sc *script) compare() string {
	var out strings.Builder
	for line := range strings.SplitSeq(sc.d.Input, "\n") {
		c := new(pb.Compare)
		sc.parse(line, c)
		var held []string
		for _, c.Result = range []pb.Compare_CompareResult{pb.Compare_EQUAL, pb.Compare_NOT_EQUAL, pb.Compare_GREATER, pb.Compare_LESS} {
			ok, err := holds(sc.at.store.View(), c)
			if err != nil {
				return err.Error()
			}
			if ok {
				held = append(held, c.Result.String())
			}
		}
		fmt.Fprintf(&out, "%s: %s\n", line, cmp.Or(strings.Join(held, " "), "none"))
	}
	return out.String()
}

// each parses a command from each line, calls fn for it and publishes.
func (sc *script) each(fn func(Command) string) string {
	var out strings.Builder
	for line := range strings.SplitSeq(sc.d.Input, "\n") {
		fmt.Fprintln(&out, fn(sc.command(line)))
	}
	sc.at.publish()
	return out.String()
}

func (sc *script) command(line string) Command {
	verb, text, _ := strings.Cut(line, " ")
	if name, ok := strings.CutPrefix(verb, "as:"); ok {
		name, rev, _ := strings.Cut(name, "@")
		n, err := strconv.ParseUint(rev, 10, 64)
		if err != nil {
			sc.d.Fatalf(sc.t, "%s: %v", line, err)
		}
		return &As{auth.Caller{User: name, Revision: n}, sc.command(text)}
	}
	cmd := map[string]Command{
		"put": new(pb.PutRequest), "delete": new(pb.DeleteRangeRequest), "txn": new(pb.TxnRequest), "compact": new(pb.CompactionRequest),
		"grant": new(pb.LeaseGrantRequest), "revoke": new(pb.LeaseRevokeRequest), "alarm": new(pb.AlarmRequest),
		"found": new(Found), "member": new(Member), "madd": new(MemberAdd), "mremove": new(MemberRemove),
		"mupdate": new(MemberUpdate), "mpromote": new(MemberPromote), "mrelease": new(MemberRelease),
		"enable": new(pb.AuthEnableRequest), "disable": new(pb.AuthDisableRequest), "login": new(Login), "rotate": new(RotationStep), "v2auth": new(auth.V2Change), "v2": new(v2tree.Request), "expire": new(v2tree.Expire),
		"useradd": new(pb.AuthUserAddRequest), "userdel": new(pb.AuthUserDeleteRequest), "passwd": new(pb.AuthUserChangePasswordRequest),
		"grantrole": new(pb.AuthUserGrantRoleRequest), "revokerole": new(pb.AuthUserRevokeRoleRequest),
		"roleadd": new(pb.AuthRoleAddRequest), "roledel": new(pb.AuthRoleDeleteRequest),
		"permit": new(pb.AuthRoleGrantPermissionRequest), "withdraw": new(pb.AuthRoleRevokePermissionRequest),
	}[verb]
	if cmd == nil {
		sc.d.Fatalf(sc.t, "no command %q", verb)
	}
	if m, ok := cmd.(proto.Message); ok {
		sc.parse(text, m)
	} else if err := json.Unmarshal([]byte(text), cmd); err != nil {
		sc.d.Fatalf(sc.t, "%s: %v", line, err)
	}
	return cmd
}

func (sc *script) parse(text string, m proto.Message) {
	if err := prototext.Unmarshal([]byte(text), m); err != nil {
		sc.d.Fatalf(sc.t, "%s: %v", text, err)
	}
}

// answer prints a response on one line. prototext puts random double spaces
// into its output, to keep people from relying on it.
func answer(resp any, err error) string {
	if err != nil {
		return "error: " + strings.TrimPrefix(strings.TrimPrefix(err.Error(), "txn: "), "auth: ")
	}
	if all, ok := resp.(Membership); ok {
		var ids []uint64
		for _, m := range all {
			ids = append(ids, m.ID)
		}
		return fmt.Sprintf("members %v", ids)
	}
	if c, ok := resp.(*RulesChange); ok {
		return fmt.Sprintf("rules %d after %d, enabled %v", c.After.Revision(), c.Before.Revision(), c.After.Enabled())
	}
	switch e := resp.(type) {
	case nil:
		return "done"
	case *v2tree.Event:
		return fmt.Sprintf("%s %s %+v", e.Action, e.Key, *e.Node)
	}
	m := resp.(proto.Message)
	return strings.ReplaceAll(prototext.MarshalOptions{}.Format(m), "  ", " ")
}
