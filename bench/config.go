package main

import (
	"errors"
	"flag"
	"fmt"
	"strings"
	"time"
)

// defaultRevisions is what DESIGN §11 asks of the restart row.
const defaultRevisions = 1_000_000

// config is what the command line asked for.
type config struct {
	rows      string
	sides     string
	rounds    int
	duration  time.Duration // measured window of a rate
	settle    time.Duration // before memory is looked at
	wear      time.Duration // measured window of the idle row
	revisions int
	quick     bool
	write     bool
	out       string
	profile   string
	work      string
}

// parseFlags reads the command line. -quick changes defaults only: what is given besides it holds.
func parseFlags(args []string) (config, error) {
	var c config
	f := flag.NewFlagSet("bench", flag.ContinueOnError)
	f.StringVar(&c.rows, "rows", "", "comma-separated `rows` to run, of "+rowNames()+" (default all)")
	f.StringVar(&c.sides, "sides", "limpet,etcd,kine", "comma-separated `sides`, of "+strings.Join(sideNames, ","))
	f.IntVar(&c.rounds, "rounds", 5, "rounds of each row")
	f.DurationVar(&c.duration, "duration", 10*time.Second, "measured window of a rate, after a warm-up")
	f.DurationVar(&c.settle, "settle", 5*time.Second, "rest before memory or CPU at rest is looked at")
	f.DurationVar(&c.wear, "idle-duration", 2*time.Minute, "measured window of the idle row")
	f.IntVar(&c.revisions, "revisions", defaultRevisions, "revisions of the restart row")
	f.BoolVar(&c.quick, "quick", false, "a short trial: 2 rounds, windows of 2s, 20s idle, 50 000 revisions")
	f.BoolVar(&c.write, "write", false, "write the results to the file of -out")
	f.StringVar(&c.out, "out", "RESULTS.md", "`file` for -write")
	f.StringVar(&c.profile, "profile", "", "save CPU profiles of limpet and etcd, first round of each row, into this `folder`")
	f.StringVar(&c.work, "work", "", "`folder` on the disk to measure (default: a temporary one)")
	if err := f.Parse(args); err != nil {
		return c, err
	}
	if f.NArg() > 0 {
		return c, fmt.Errorf("unexpected argument %q", f.Arg(0))
	}
	given := map[string]bool{}
	f.Visit(func(x *flag.Flag) { given[x.Name] = true })
	if c.quick {
		short(&c, given)
	}
	if c.rounds < 1 || c.duration < time.Second || c.wear < time.Second || c.revisions < restartPasses || c.revisions%restartPasses != 0 {
		return c, errors.New("-rounds, -duration, -idle-duration or -revisions is too small, or -revisions no multiple of 10")
	}
	return c, nil
}

// short sets the defaults of -quick where nothing was given.
func short(c *config, given map[string]bool) {
	if !given["rounds"] {
		c.rounds = 2
	}
	if !given["duration"] {
		c.duration = 2 * time.Second
	}
	if !given["settle"] {
		c.settle = 2 * time.Second
	}
	if !given["idle-duration"] {
		c.wear = 20 * time.Second
	}
	if !given["revisions"] {
		c.revisions = 50_000
	}
}
