package main

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// report is everything a run says at its end.
type report struct {
	machine machine
	sides   []*side
	rows    []*row
	rec     *recorder
	config  config
	command string
	date    time.Time
	took    time.Duration
	others  time.Duration // CPU that other processes and the kernel's own threads used meanwhile
}

// method says how the figures came about, for whoever reads them without the source.
const method = `How it was measured: each row runs on every side in turn, round after round, each time on an empty data folder (restart
and idle apart); a cell is the median of the rounds with the lowest and highest in brackets, limpet/etcd the ratio of the
medians with the lowest and highest ratio of a single round. ↓ marks costs: less is better. Load generator and server are
two processes that share the same cores. CPU is user and system time of the server (/proc/PID/stat), for puts until after a
clean stop, so that work put off is counted. write_bytes is /proc/PID/io. MB is 10⁶ bytes, MiB 2²⁰.
`

// trioMethod is what readers of rows with three members need besides.
const trioMethod = `
Three members are three processes on loopback that share the cores and the disk (idle k3s and bytes reaching the devices:
an ext4 image for each); costs are sums over the three, so the binary's shared pages count three times in RSS. A client
sends its requests to all three in turn, as clientv3 does with three endpoints, unless a row says "at the leader". Time
without writes is the longest pause between answered writes from the blow on, as seen by puts sent to the two other members
every 5 ms, none waiting for another; a figure of a round is the median of 3 blows.
`

// sideNotes says what must be known of a side to compare it.
var sideNotes = map[string]string{
	"kine": "kine answers a write before it is synced to the disk (its default, synchronous=NORMAL in WAL mode); " +
		"limpet and etcd answer after. The side kine-full is the same program made to sync.",
	"etcd": "etcd's size is etcd and etcdctl together. Its RSS counts the pages of its memory-mapped file; RssAnon is " +
		"RSS without mapped files.",
}

// tables are the report's figures.
func (p report) tables() string {
	var b strings.Builder
	names := make([]string, 0, len(p.sides))
	for _, s := range p.sides {
		names = append(names, s.name)
	}
	b.WriteString(judged(p.rows, names, p.rec))
	if t := besides(p.rows, names, p.rec); t != "" {
		b.WriteString("\n" + t)
	}
	if missing := p.rec.missing(); len(missing) > 0 {
		b.WriteString("\nNot measured, or not in every round:\n\n")
		for _, line := range missing {
			b.WriteString("- " + line + "\n")
		}
	}
	return b.String()
}

// setting is where and how the figures were taken.
func (p report) setting() string {
	var b strings.Builder
	b.WriteString(p.machine.list())
	for _, s := range p.sides {
		fmt.Fprintf(&b, "- %s: %s\n", s.name, s.version)
	}
	fmt.Fprintf(&b, "- %d rounds, windows of %v, idle run of %v; the whole run took %v\n", p.config.rounds,
		p.config.duration, p.config.wear, p.took.Round(time.Second))
	fmt.Fprintf(&b, "- CPU that neither this program nor a server used meanwhile: %.0f %% of all cores\n",
		100*max(0, p.others.Seconds()/(p.took.Seconds()*float64(p.machine.cores))))
	fmt.Fprintf(&b, "- command: `%s`\n", p.command)
	return b.String()
}

// notes are the sentences below the figures.
func (p report) notes() string {
	var b strings.Builder
	b.WriteString(method)
	if slices.ContainsFunc(p.rows, func(r *row) bool { return r.members == trio }) {
		b.WriteString(trioMethod)
	}
	for _, s := range p.sides {
		if text := sideNotes[s.name]; text != "" {
			b.WriteString("\n" + text + "\n")
		}
	}
	if len(p.rec.remarks) > 0 {
		b.WriteString("\n")
	}
	for _, text := range p.rec.remarks {
		b.WriteString("- " + text + "\n")
	}
	return b.String()
}

// document is RESULTS.md.
func (p report) document() string {
	return fmt.Sprintf("# Results\n\nWritten by `go run . -write` on %s.\n\n%s\n%s\n%s",
		p.date.Format(time.DateOnly), p.setting(), p.tables(), p.notes())
}
