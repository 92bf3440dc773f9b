package cluster

import (
	"context"
	"encoding/json"
	"path/filepath"
	"testing"

	"google.golang.org/protobuf/types/known/wrapperspb"

	"limpet/peer"
	"limpet/txn"
)

// FuzzDescription: what another member tells of itself is taken whole or not at
// all, and can be asked everything that members ask of it.
func FuzzDescription(f *testing.F) {
	data, err := json.Marshal(&Description{
		Hello: peer.Hello{Protocol: peer.Protocol, ID: 2, Cluster: 7, Name: "b"}, Forming: true, Expect: 3, Index: 9, Stage: stageAsks,
		Members: []*txn.Member{{ID: 1, Name: "a"}, {ID: 2, Name: "b"}},
	})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(data)
	for _, text := range []string{`{}`, `null`, `[]`, `{"members":[null]}`, `{"id":1,"members":[{"id":1},null],"stage":"sure"}`, `{"id":-1}`, `{"id":1,"members":1}`} {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		d, err := readDescription(data)
		if (err == nil) != (d != nil) {
			t.Fatalf("got %+v, %v; want one of the two", d, err)
		}
		if err != nil {
			return
		}
		member, settled := d.founders(1), d.Settled()
		if len(d.Members) == 0 && !member {
			t.Error("nobody founds a cluster whose members are not known")
		}
		if settled && d.Cluster == 0 {
			t.Error("settled, and in no cluster")
		}
		if settled && !d.keepsTo(d.Cluster, 1) {
			t.Error("settled, and makes way for a founder")
		}
	})
}

// asked leaves out what is answered.
func asked[Resp any](serve func(context.Context, *wrapperspb.BytesValue) (Resp, error)) func(context.Context, *wrapperspb.BytesValue) error {
	return func(ctx context.Context, r *wrapperspb.BytesValue) error {
		_, err := serve(ctx, r)
		return err
	}
}

// FuzzQuestions: a question that cannot be understood, or must not be granted,
// changes nothing; the one that may be granted to a member without a cluster
// changes what it says.
func FuzzQuestions(f *testing.F) {
	f.Add(byte(0), []byte(`{"cluster":7,"members":[{"id":1},{"id":2},{"id":3}]}`))
	f.Add(byte(0), []byte(`{"cluster":7,"members":[null,null,null]}`))
	f.Add(byte(0), []byte(`{"cluster":7,"members":[{"id":1},{"id":2}]}`))
	f.Add(byte(0), []byte(`{"cluster":0}`))
	f.Add(byte(1), []byte(`{"id":9,"name":"x","peer_urls":["http://x:1"]}`))
	f.Add(byte(2), []byte("seven b"))
	f.Add(byte(2), append(make([]byte, 8), 1))
	f.Add(byte(3), make([]byte, 16))
	f.Add(byte(4), []byte("a fingerprint"))
	f.Add(byte(5), []byte(nil))
	f.Fuzz(func(t *testing.T, which byte, data []byte) {
		before := Identity{Member: 1}
		var kept Identity
		l := New(Config{
			Identity: before, Keep: func(id Identity) error { kept = id; return nil }, Name: "a", Expect: 3,
			Roster: OpenRoster(filepath.Join(t.TempDir(), "peers.json")), Broken: func(err error) { t.Errorf("broken: %v", err) },
		})
		serve := []func(context.Context, *wrapperspb.BytesValue) error{
			asked(l.founding.serveForm), asked(l.intake.serveJoin), asked(l.line.servePropose), asked(l.line.serveHear),
			asked(l.rotation.serveToken), asked(l.survey.serveReport),
		}
		i := int(which) % len(serve)
		err := serve[i](t.Context(), wrapperspb.Bytes(data))
		now := l.Identity()
		if err != nil {
			if now != before || kept != (Identity{}) || len(l.me.cfg.Roster.addresses(0)) > 0 {
				t.Errorf("refused (%v), and it is %+v now, with %v", err, now, l.me.cfg.Roster.addresses(0))
			}
			return
		}
		var req formRequest
		if i != 0 || json.Unmarshal(data, &req) != nil || req.Cluster == 0 || len(req.Members) != 3 {
			t.Fatalf("question %d, %q: granted", i, data)
		}
		if want := (Identity{Member: 1, Cluster: req.Cluster, Forming: true}); now != want || kept != want {
			t.Errorf("got %+v, on disk %+v; want %+v", now, kept, want)
		}
	})
}
