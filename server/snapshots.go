package server

import (
	"fmt"
	"path/filepath"

	"limpet/backup"
)

// Snapshots is what an operator can say of the snapshots that members take by
// themselves.
type Snapshots struct {
	Schedule  string // as cron(8) reads it; empty or off: none are taken
	Retention int    // how many of a member are kept in each place
	Dir       string // folder; empty: snapshots in the data directory
	Name      string // that their names begin with
	Compress  bool   // if it pays
	S3        backup.S3
}

func defaultSnapshots() Snapshots {
	return Snapshots{Schedule: "0 */12 * * *", Retention: 5, Name: "scheduled", Compress: true, S3: backup.DefaultS3()}
}

// check finds what would keep snapshots from being taken.
func (s Snapshots) check() error {
	schedule, err := backup.ParseSchedule(s.Schedule)
	if err != nil {
		return err
	}
	if schedule == nil {
		return nil
	}
	if s.Retention < 1 {
		return fmt.Errorf("--snapshot-retention is %d, want 1 or more; --snapshot-schedule off takes no snapshots", s.Retention)
	}
	if err := backup.CheckName(s.Name); err != nil {
		return fmt.Errorf("--snapshot-name: %w", err)
	}
	if err := s.S3.Check(); err != nil || !s.S3.Given() {
		return err
	}
	b, err := backup.OpenBucket(s.S3)
	if err == nil {
		b.Close()
	}
	return err
}

// snapshotDir is the folder of this member's snapshots.
func (c *Config) snapshotDir() string {
	if c.Snapshots.Dir != "" {
		return c.Snapshots.Dir
	}
	return filepath.Join(c.DataDir, SnapshotsName)
}

// snapshotKeeper makes what takes snapshots by the schedule, and what ends with it;
// nil: there is no schedule.
func (s *Server) snapshotKeeper() (*backup.Keeper, func(), error) {
	o := s.cfg.Snapshots
	schedule, err := backup.ParseSchedule(o.Schedule)
	if err != nil || schedule == nil {
		return nil, nil, err
	}
	cfg := backup.KeeperConfig{
		Schedule: schedule, Retention: o.Retention, Compress: o.Compress, Dir: backup.Dir{Path: s.cfg.snapshotDir()},
		Series: func() string { return backup.Series(o.Name, s.local.Hello().Name, s.clusterID()) },
		Source: backup.ImageSource(s.store.Image),
		Position: func() backup.Position {
			return backup.Position{Revision: s.store.Rev(), Compacted: s.store.Floor(), Index: s.store.Applied()}
		},
		Leading: s.node.Leading, Logger: s.log,
		Done: func(r backup.Outcome) {
			s.metrics.Snapshots.Note(r.Snapshot.Bytes, r.Err)
			if r.Err != nil { // the keeper has logged it
				s.notices.Add("snapshot", "the scheduled snapshot failed", "error", r.Err)
			}
		},
	}
	if !o.S3.Given() {
		return backup.NewKeeper(cfg), func() {}, nil
	}
	bucket, err := backup.OpenBucket(o.S3)
	if err != nil {
		return nil, nil, err
	}
	cfg.Bucket = bucket
	return backup.NewKeeper(cfg), bucket.Close, nil
}
