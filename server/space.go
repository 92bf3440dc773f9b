package server

import (
	"context"
	"slices"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"golang.org/x/sys/unix"

	"limpet/txn"
)

const (
	// Room is kept on a disk for what makes room, since deletions and compaction
	// write, too: a fiftieth of it, within bounds. The least is a segment of the
	// log, and SQLite's own log between two checkpoints.
	roomShare = 50
	leastRoom = 8 << 20
	mostRoom  = 64 << 20
	// lookPause is the least pause between two looks at the disks.
	lookPause = 250 * time.Millisecond
)

// space looks at the disks of a member after changes. Without changes it does not
// wake up.
type space struct {
	dirs   []string
	statfs func(dir string, st *unix.Statfs_t) error
	grown  chan struct{} // holds one: something was written since the last look
}

func newSpace(dirs ...string) *space {
	return &space{dirs: dirs, statfs: unix.Statfs, grown: make(chan struct{}, 1)}
}

// noteGrown hears of a change; it never blocks.
func (p *space) noteGrown() {
	select {
	case p.grown <- struct{}{}:
	default:
	}
}

// scarce is a folder on whose disk there is less free than is to be kept; empty if
// there is none.
func (p *space) scarce() (dir string, free, room uint64) {
	for _, dir := range p.dirs {
		var st unix.Statfs_t
		if p.statfs(dir, &st) != nil {
			continue // then writing tells
		}
		unit := uint64(st.Bsize)
		free, room := st.Bavail*unit, min(max(st.Blocks*unit/roomShare, leastRoom), mostRoom)
		if free < room {
			return dir, free, room
		}
	}
	return "", 0, 0
}

// watchSpace raises the alarm NOSPACE of this member while its disk still has room:
// on a full disk neither the log nor the database could be written, and nothing
// could be deleted.
func (s *Server) watchSpace(ctx context.Context) {
	pause := time.NewTicker(lookPause)
	defer pause.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-s.space.grown:
		}
		if dir, free, room := s.space.scarce(); dir != "" && !s.alarmed(pb.AlarmType_NOSPACE) {
			s.log.Error("the disk is nearly full: what adds is refused in the whole cluster (alarm NOSPACE). Free space, or delete and compact, then: etcdctl alarm disarm",
				"folder", dir, "free", free, "kept", room)
			if _, err := s.node.Propose(ctx, &pb.AlarmRequest{Action: pb.AlarmRequest_ACTIVATE, MemberID: s.dir.now().member(), Alarm: pb.AlarmType_NOSPACE}); err != nil && ctx.Err() == nil {
				s.log.Warn("the alarm NOSPACE could not be raised; trying again after the next change", "error", err)
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-pause.C:
		}
	}
}

// alarmed reports whether this member has raised an alarm.
func (s *Server) alarmed(t pb.AlarmType) bool {
	self := s.dir.now().member()
	return slices.ContainsFunc(s.node.Alarms(), func(a txn.Alarm) bool { return a.Type == t && a.Member == self })
}
