package side

import (
	"slices"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

// restart stops both servers, by SIGTERM or SIGKILL as the seed has it, and starts them again on
// their data. Then everything that was promised to last is compared.
func (s *Session) restart() {
	s.t.Helper()
	s.gen.watches.settle(s.gen)
	s.drain()
	if s.tired() {
		return
	}
	kill := s.gen.chance(50)
	for _, target := range s.Targets() {
		target.Disconnect()
		if kill {
			target.Server.Kill()
		} else if exit := target.Server.Terminate(stopDeadline); !exit.Clean(target.Server.Kind) {
			s.t.Errorf("%s ended with %+v on SIGTERM", target.Label, exit)
		}
		target.Server.Run()
		target.Connect(s.t)
	}
	s.loginAgain()
	next := s.gen.rev + 1
	s.gen.watches.forget(next)
	s.openRecorder(next)
	for _, call := range slices.Concat(lasting(s.gen), s.gen.auth.lastingAuth()) {
		s.compare(s.gen.auth.asRoot(call), nil)
	}
}

// loginAgain has root take a new token. Those from before are not tried again: a server that replays
// its log after a crash replays logins as well, as many as it had not yet stored the effects of.
func (s *Session) loginAgain() {
	s.t.Helper()
	if s.gen.auth == nil {
		return
	}
	s.gen.auth.forget()
	login := s.gen.login("root", rootPassword)
	s.compare(login.step, login.then)
}

// lasting asks for all state that a restart must not change.
func lasting(g *Generator) []Step {
	steps := []Step{
		Call{Method: "/etcdserverpb.KV/Range", Request: recorderRange()},
		Call{Method: "/etcdserverpb.Maintenance/HashKV", Request: &pb.HashKVRequest{}},
		Call{Method: "/etcdserverpb.Maintenance/HashKV", Request: &pb.HashKVRequest{Revision: g.hashRevision()}},
		Call{Method: "/etcdserverpb.Lease/LeaseLeases", Request: &pb.LeaseLeasesRequest{}},
		Call{Method: "/etcdserverpb.Maintenance/Alarm", Request: &pb.AlarmRequest{}},
		Call{Method: "/etcdserverpb.Maintenance/Status", Request: &pb.StatusRequest{}},
		Call{Method: "/etcdserverpb.Cluster/MemberList", Request: &pb.MemberListRequest{Linearizable: true}},
	}
	if g.compacted > 0 { // else it would be carried out
		steps = append(steps, Call{Method: "/etcdserverpb.KV/Compact", Request: &pb.CompactionRequest{Revision: g.compacted}})
	}
	for _, id := range g.leases.live {
		steps = append(steps, Call{Method: "/etcdserverpb.Lease/LeaseTimeToLive", Request: &pb.LeaseTimeToLiveRequest{ID: id, Keys: true}})
	}
	return steps
}

func recorderRange() *pb.RangeRequest { return &pb.RangeRequest{Key: []byte{0}, RangeEnd: []byte{0}} }
