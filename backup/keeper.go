package backup

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"time"

	"limpet/safefile"
)

// KeeperConfig wires a Keeper.
type KeeperConfig struct {
	Schedule  Schedule
	Series    func() string // of this member's snapshots
	Dir       Dir
	Bucket    Place // where the leader uploads; nil: nowhere
	Retention int   // of a series, in each place
	Compress  bool

	Source   Source
	Position func() Position
	Leading  func() bool

	Now    func() time.Time                       // nil: the machine's clock
	Sleep  func(d time.Duration) <-chan time.Time // nil: time.After
	Logger *slog.Logger
	Done   func(Outcome) // hears of each run; may be nil
}

// Position tells whether something has changed: if it is the same as at the last
// snapshot, nothing has.
type Position struct {
	Revision  int64  `json:"revision"`
	Compacted int64  `json:"compact_revision"`
	Index     uint64 `json:"raft_index"`
}

// Outcome is what a run came to.
type Outcome struct {
	Snapshot Snapshot
	Taken    bool // else nothing has changed since Snapshot
	Err      error
}

// Keeper takes the snapshots of a member by a schedule. Every member keeps its own in
// its folder; who leads uploads.
type Keeper struct{ cfg KeeperConfig }

// NewKeeper makes a keeper of a config that was checked.
func NewKeeper(cfg KeeperConfig) *Keeper {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Sleep == nil {
		cfg.Sleep = time.After
	}
	return &Keeper{cfg: cfg}
}

const (
	// soon is how long after the start one is taken that is overdue: others start at
	// the same time, and have their hands full.
	soon = 2 * time.Minute
	// lookAgain bounds how long the clock is trusted: a board without one of its own
	// may be set right by years after the start.
	lookAgain = 15 * time.Minute
	// tryAgain is how long after a failure it is tried again.
	tryAgain = 30 * time.Minute
)

// Run takes snapshots until ctx ends.
func (k *Keeper) Run(ctx context.Context) {
	at := k.first(ctx)
	for {
		now := k.cfg.Now()
		if !now.Before(at) {
			at = k.after(k.Once(ctx))
			continue
		}
		select {
		case <-ctx.Done():
			return
		case <-k.cfg.Sleep(min(at.Sub(now), lookAgain)):
		}
		if next := k.cfg.Schedule.Next(k.cfg.Now()); next.Before(at) {
			at = next // the clock was set back
		}
	}
}

// first is when the first run is due: by the schedule, or soon, if the newest
// snapshot is older than it allows.
func (k *Keeper) first(ctx context.Context) time.Time {
	now := k.cfg.Now()
	at := k.cfg.Schedule.Next(now)
	due := now.Add(soon)
	if all, err := k.cfg.Dir.List(ctx); err == nil {
		for _, s := range all {
			if s.Series == k.cfg.Series() {
				if next := k.cfg.Schedule.Next(s.Created); next.After(now) {
					due = at
				}
			}
		}
	}
	if due.Before(at) {
		return due
	}
	return at
}

// after is when the next run is due.
func (k *Keeper) after(err error) time.Time {
	now := k.cfg.Now()
	at := k.cfg.Schedule.Next(now)
	if again := now.Add(tryAgain); err != nil && again.Before(at) {
		return again
	}
	return at
}

// Once takes a snapshot now, if something has changed, keeps it, and removes what is
// one too many. What went wrong is logged.
func (k *Keeper) Once(ctx context.Context) error {
	o := k.run(ctx)
	if ctx.Err() != nil {
		return ctx.Err() // the member stops
	}
	if k.cfg.Done != nil {
		k.cfg.Done(o)
	}
	switch {
	case o.Err != nil:
		k.cfg.Logger.Error("the scheduled snapshot failed; the ones before are kept, and it is tried again", "error", o.Err, "again", k.after(o.Err).UTC().Format(time.RFC3339))
	case o.Taken:
		k.cfg.Logger.Info("took a snapshot", "file", o.Snapshot.Location, "bytes", o.Snapshot.Bytes)
	default:
		k.cfg.Logger.Debug("no snapshot was taken: nothing has changed", "since", o.Snapshot.Name)
	}
	return o.Err
}

func (k *Keeper) run(ctx context.Context) Outcome {
	series := k.cfg.Series()
	if err := errors.Join(k.cfg.Dir.Open(), k.cfg.Dir.Tidy(ctx, series)); err != nil {
		return Outcome{Err: err}
	}
	n, taken, err := k.local(ctx, series)
	if err != nil {
		return Outcome{Err: err}
	}
	o := Outcome{Snapshot: n.Snapshot, Taken: taken}
	if taken {
		o.Err = k.prune(ctx, k.cfg.Dir, series)
	}
	if k.cfg.Bucket != nil && k.cfg.Leading() {
		o.Err = errors.Join(o.Err, k.upload(ctx, series, n))
	}
	return o
}

// noteFile is the file that says what the newest snapshot of a series in the folder is
// of. Each series has its own: several members may share a folder.
func (k *Keeper) noteFile(series string) string {
	return filepath.Join(k.cfg.Dir.Path, ".newest-"+series+".json")
}

// note is its content.
type note struct {
	Snapshot Snapshot `json:"snapshot"`
	Position Position `json:"position"`
	Digest   string   `json:"digest"`
	Uploaded string   `json:"uploaded,omitempty"` // name of what was uploaded last
}

// newest reads the note; the zero value: there is none that is true of what the
// folder holds.
func (k *Keeper) newest() note {
	var n note
	data, err := os.ReadFile(k.noteFile(k.cfg.Series()))
	if err != nil || json.Unmarshal(data, &n) != nil || n.Snapshot.Name == "" {
		return note{}
	}
	info, err := os.Stat(k.cfg.Dir.File(n.Snapshot.Name))
	if err != nil || info.Size() != n.Snapshot.Bytes || n.Snapshot.Series != k.cfg.Series() {
		return note{}
	}
	return n
}

func (k *Keeper) write(n note) error {
	data, err := json.MarshalIndent(n, "", " ")
	if err != nil {
		return err
	}
	return safefile.Write(k.noteFile(n.Snapshot.Series), append(data, '\n'))
}

// local makes sure that the folder has a snapshot of what the member holds now.
func (k *Keeper) local(ctx context.Context, series string) (n note, taken bool, err error) {
	n = k.newest()
	at := k.cfg.Position()
	if n.Snapshot.Name != "" && n.Position == at {
		return n, false, nil
	}
	t, err := Take(ctx, Taking{
		Source: k.cfg.Source, Spool: k.cfg.Dir.Path, Compress: k.cfg.Compress,
		// An entry of the log may have changed nothing, an election's above all.
		Wanted: func(c *Contents) bool { return c.Digest != n.Digest },
	})
	if err != nil {
		return n, false, err
	}
	if t == nil {
		n.Position = at // so that it is not looked at again
		return n, false, k.write(n)
	}
	c := t.Contents
	s, err := KeepIn(ctx, k.cfg.Dir, t, series, k.cfg.Now())
	if err != nil {
		return n, false, err
	}
	n = note{Snapshot: s, Position: Position{c.Revision, c.Compacted, c.Index}, Digest: c.Digest, Uploaded: n.Uploaded}
	return n, true, k.write(n)
}

// KeepIn gives a snapshot that was taken in the folder its name there.
func KeepIn(ctx context.Context, d Dir, t *Taken, series string, now time.Time) (Snapshot, error) {
	all, err := d.List(ctx)
	if err != nil {
		return Snapshot{}, errors.Join(err, t.Drop())
	}
	name := t.NameIn(all, series, now)
	if err := t.Keep(d.File(name), false); err != nil {
		return Snapshot{}, err
	}
	s, _ := parse(name)
	s.Bytes, s.Location = t.Contents.Kept, d.File(name)
	return s, nil
}

func (k *Keeper) prune(ctx context.Context, p Place, series string) error {
	removed, damaged, err := Prune(ctx, p, series, k.cfg.Retention)
	for _, s := range damaged {
		k.cfg.Logger.Error("a snapshot that was whole when it was taken is damaged; the disk may be failing: look at it with limpet snapshot status, then delete it", "file", s.Location)
	}
	if len(removed) > 0 {
		k.cfg.Logger.Debug("removed older snapshots", "number", len(removed), "place", p.String())
	}
	if err != nil {
		return fmt.Errorf("older snapshots could not be removed from %s: %w", p, err)
	}
	return nil
}

// upload puts the newest snapshot of the folder into the bucket, unless it is there.
// That it was put there once does not say so: somebody may have removed it.
func (k *Keeper) upload(ctx context.Context, series string, n note) error {
	all, err := k.cfg.Bucket.List(ctx)
	if err != nil {
		return err
	}
	file, name := k.cfg.Dir.File(n.Snapshot.Name), n.Snapshot.Name
	i := slices.IndexFunc(all, func(s Snapshot) bool { return s.Name == name })
	if i >= 0 && n.Uploaded == name && all[i].Bytes == n.Snapshot.Bytes {
		return nil
	}
	if err := k.cfg.Bucket.Tidy(ctx, series); err != nil {
		return err
	}
	if i >= 0 {
		// It came there before the power went, or it is somebody else's, and stays.
		if err := compare(ctx, k.cfg.Bucket, file, all[i]); err != nil {
			return fmt.Errorf("%s is there, and is not this member's: if another cluster has a member of that name, give each an --s3-folder of its own: %w", all[i].Location, err)
		}
	} else if _, err := Upload(ctx, k.cfg.Bucket, file, name, nil); err != nil {
		return err
	}
	n.Uploaded = n.Snapshot.Name
	return errors.Join(k.write(n), k.prune(ctx, k.cfg.Bucket, series))
}
