package side

import (
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
)

func (g *Generator) planMaintenance() {
	switch n := g.rng.IntN(100); {
	case n < 10:
		g.call("/etcdserverpb.Maintenance/Status", &pb.StatusRequest{}, nil)
	case n < 50:
		g.later(func() planned {
			return planned{Call{Method: "/etcdserverpb.Maintenance/HashKV", Request: &pb.HashKVRequest{Revision: g.hashRevision()}}, nil}
		})
	case n < 55:
		g.call("/etcdserverpb.Maintenance/Hash", &pb.HashRequest{}, nil)
	case n < 57:
		g.add(Snapshot{}, nil)
	case n < 60:
		g.call("/etcdserverpb.Maintenance/Defragment", &pb.DefragmentRequest{}, nil)
	case n < 66:
		g.call("/etcdserverpb.Maintenance/MoveLeader", &pb.MoveLeaderRequest{TargetID: pick(g, NeutralMember, 0, 12345)}, nil)
	case n < 76:
		action := pick(g, pb.DowngradeRequest_VALIDATE, pb.DowngradeRequest_VALIDATE, pb.DowngradeRequest_CANCEL)
		version := pick(g, "3.6", "3.6.0", "3.5", "3.7", "3.7.0", "3.8", "4.0", "", "x", "3", "3.6.x", "v3.6", "-1.2", "3.6.99", "3.6.0-rc.1")
		g.call("/etcdserverpb.Maintenance/Downgrade", &pb.DowngradeRequest{Action: action, Version: version}, nil)
	case n < 86:
		g.add(Members{Method: "MemberList", Request: &pb.MemberListRequest{Linearizable: g.chance(50)}, Metadata: g.metadata()}, nil)
	case n < 92:
		g.call("/grpc.health.v1.Health/Check", &healthpb.HealthCheckRequest{Service: pick(g, "", "", "etcdserverpb.KV", "x")}, nil)
	default:
		g.call("/etcdserverpb.Maintenance/Alarm", &pb.AlarmRequest{
			Action: pb.AlarmRequest_GET, Alarm: pb.AlarmType(g.rng.IntN(4)), MemberID: pick(g, 0, NeutralMember),
		}, nil)
	}
}

// hashRevision keeps away from revisions that were compacted at: etcd answers those from memory once
// the compaction behind it has finished, with the hash as it was under the compaction before. (After a compaction at 0 that
// is its answer even to 0, "now".)
func (g *Generator) hashRevision() int64 {
	for {
		if rev := g.revision(); !g.compactions[rev] {
			return rev
		}
	}
}

// alarmPlan ends an alarm some steps after it was raised, so that most of a session is not spent
// under one.
type alarmPlan struct {
	steps int // until the alarms are to be cleared; 0 if there are none
}

func (p *alarmPlan) tick(g *Generator) {
	if p.steps == 0 {
		return
	}
	if p.steps--; p.steps > 0 {
		return
	}
	for _, member := range []uint64{NeutralMember, 0, 777} {
		for _, alarm := range []pb.AlarmType{pb.AlarmType_NOSPACE, pb.AlarmType_CORRUPT} {
			end := Call{
				Method:   "/etcdserverpb.Maintenance/Alarm",
				Request:  &pb.AlarmRequest{Action: pb.AlarmRequest_DEACTIVATE, Alarm: alarm, MemberID: member},
				Metadata: g.metadata(),
			}
			g.later(func() planned { return planned{g.auth.asRoot(end), nil} })
		}
	}
}

func (g *Generator) planAlarm() {
	req := &pb.AlarmRequest{
		Action:   pick(g, pb.AlarmRequest_ACTIVATE, pb.AlarmRequest_ACTIVATE, pb.AlarmRequest_DEACTIVATE),
		Alarm:    pick(g, pb.AlarmType_NOSPACE, pb.AlarmType_NOSPACE, pb.AlarmType_CORRUPT, pb.AlarmType_NONE),
		MemberID: pick(g, NeutralMember, NeutralMember, NeutralMember, 0, 777),
	}
	g.call("/etcdserverpb.Maintenance/Alarm", req, nil)
	if req.Action == pb.AlarmRequest_ACTIVATE && g.alarms.steps == 0 {
		g.alarms.steps = 10 + g.rng.IntN(20)
	}
}
