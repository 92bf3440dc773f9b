package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"runtime/debug"
	"slices"
	"strings"
	"syscall"
	"time"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	c, err := parseFlags(os.Args[1:])
	if err == nil {
		err = run(ctx, c)
	}
	switch {
	case errors.Is(err, flag.ErrHelp):
	case err != nil:
		fmt.Fprintln(os.Stderr, "bench:", err)
		stop()
		os.Exit(1)
	}
}

// run builds the sides, runs the rows and prints the report. Interrupted, it prints what it has, and writes nothing.
func run(ctx context.Context, c config) (err error) {
	debug.SetGCPercent(400) // the generator shares the servers' cores; memory is cheaper here than CPU
	p := report{config: c, rec: newRecorder(), date: time.Now(), others: -machineCPU(),
		command: strings.Join(append([]string{"go run ."}, os.Args[1:]...), " ")}
	if p.rows, err = selectRows(c.rows); err != nil {
		return err
	}
	b := &bench{config: c, rec: p.rec}
	if b.work, err = os.MkdirTemp(c.work, "limpet-bench-"); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(b.work)) }()
	if p.machine, err = describeMachine(b.work); err != nil {
		return err
	}
	if err := b.prepare(ctx, p.machine); err != nil {
		return err
	}
	for _, r := range p.rows {
		if err = r.run(ctx, b, r); err != nil {
			err = fmt.Errorf("row %s: %w", r.name, err)
			break
		}
	}
	p.took, p.sides = time.Since(p.date), b.sides
	p.others += machineCPU() - ownCPU() - childrenCPU()
	return b.finish(p, err)
}

// prepare makes folders and builds the sides.
func (b *bench) prepare(ctx context.Context, m machine) error {
	if m.inMemory() {
		b.rec.remark("The data folders were in memory, so a sync cost nothing: the rates say little. Use -work.")
	}
	if dir := b.config.profile; dir != "" {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
		b.rec.remark("CPU profiles were taken in the first round of each row, which costs the profiled sides a little.")
	}
	return b.build(ctx)
}

// finish prints the report of a run that ended with broken (nil: as it should), writes it if asked to, and turns
// failures into an exit code.
func (b *bench) finish(p report, broken error) error {
	for _, s := range b.sides {
		if n := s.conflicts.Load(); n > 0 {
			b.rec.remark(fmt.Sprintf("%s: %d updates found a key at another revision than the last answer to its only "+
				"writer had named; they were sent again.", s.name, n))
		}
	}
	fmt.Printf("\n%s\n%s\n%s", p.setting(), p.tables(), p.notes())
	if broken != nil {
		return broken
	}
	if b.config.write {
		if err := os.WriteFile(b.config.out, []byte(p.document()), 0o644); err != nil {
			return err
		}
	}
	if b.rec.failed {
		return errors.New("some figures are missing, see above")
	}
	return nil
}

// build makes every wanted side; one that does not build is left out, and said so.
func (b *bench) build(ctx context.Context) error {
	wanted := strings.Split(b.config.sides, ",")
	for _, name := range wanted {
		if !slices.Contains(sideNames, name) {
			return fmt.Errorf("unknown side %q; there are %s", name, strings.Join(sideNames, ", "))
		}
	}
	for _, name := range sideNames {
		if !slices.Contains(wanted, name) {
			continue
		}
		b.say("building %s", name)
		s, err := newSide(ctx, name, b.work)
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if err != nil {
			b.say("%s: %v", name, err)
			b.rec.remark(fmt.Sprintf("%s could not be built.", name))
			b.rec.failed = true
			continue
		}
		b.sides = append(b.sides, s)
	}
	if len(b.sides) == 0 {
		return errors.New("no side could be built")
	}
	return nil
}

// say shows progress on standard error.
func (b *bench) say(format string, args ...any) {
	fmt.Fprintf(os.Stderr, time.Now().Format(time.TimeOnly)+" "+format+"\n", args...)
}
