// Package memtune answers: how does the process stay small?
//
// A board has little memory, and Go's defaults are made for machines with
// much: a heap may double between two collections, and pages of the program
// that only the start needed stay mapped. Both are tuned here, and measured in
// bench/ (rows RSS and CPU per put).
package memtune

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"math"
	"os"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"syscall"
	"time"
)

const (
	// headroom is how much garbage may pile up before a collection, beside a
	// share of the live heap: with a small heap collections would otherwise
	// follow each other closely, with a large one the garbage would cost as
	// much memory as the data.
	headroom      = 6 << 20
	headroomShare = 0.1
	// leastPercent keeps collections of a large heap apart.
	leastPercent = 30
	// retune is how often the heap is looked at.
	retune = 2 * time.Second
	// quiet is how little must have been allocated since the last look for the
	// process to count as idle, and slack how much freed memory is worth a
	// collection to give it back.
	quiet = 1 << 20
	slack = 4 << 20
)

// Run keeps the collector's target at live heap + headroom until ctx ends, and
// gives memory back when a burst of work is over. An operator's GOGC is left
// alone.
func Run(ctx context.Context) {
	tune := os.Getenv("GOGC") == ""
	sample := []metrics.Sample{
		{Name: "/gc/heap/live:bytes"},
		{Name: "/gc/heap/allocs:bytes"},
		{Name: "/memory/classes/heap/free:bytes"},
	}
	ticker := time.NewTicker(retune)
	defer ticker.Stop()
	lastPercent, lastAllocs, busy := 0, uint64(0), false
	for {
		metrics.Read(sample)
		live, allocs, free := sample[0].Value.Uint64(), sample[1].Value.Uint64(), sample[2].Value.Uint64()
		if p := percent(live); tune && p != lastPercent {
			debug.SetGCPercent(p)
			lastPercent = p
		}
		idle := allocs-lastAllocs < quiet
		if idle && (busy || free > slack) {
			_ = Settle() // it says nothing that an operator could act on
		}
		busy, lastAllocs = !idle, allocs
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}

// percent is the GOGC that gives a live heap its headroom, in steps of 10 so
// that small changes do not touch the collector.
func percent(live uint64) int {
	base := float64(max(live, 4<<20)) // Go scales its least heap of 4 MiB by GOGC
	p := 100 * (headroom + headroomShare*base) / base
	return max(int(math.Ceil(p/10))*10, leastPercent)
}

// Settle gives back what only the past needed: garbage, and pages of the
// program that were mapped, while packages were initialised above all. Those
// that are used again come back by themselves, from the page cache.
func Settle() error {
	debug.FreeOSMemory()
	if runtime.GOOS != "linux" {
		return nil
	}
	smaps, err := os.ReadFile("/proc/self/smaps")
	if err != nil {
		return err
	}
	exe, err := os.Readlink("/proc/self/exe")
	if err != nil {
		return err
	}
	for _, m := range cleanMappings(smaps, exe) {
		// The address is the kernel's word, not Go memory: no pointer is made.
		if _, _, errno := syscall.Syscall(syscall.SYS_MADVISE, m.start, m.size, syscall.MADV_DONTNEED); errno != 0 {
			return fmt.Errorf("madvise %x: %w", m.start, errno)
		}
	}
	return nil
}

type mapping struct {
	start uintptr
	size  uintptr
}

// cleanMappings lists the read-only mappings of the file exe in which no page
// was ever written: only those are the same when read again from the file.
func cleanMappings(smaps []byte, exe string) []mapping {
	var out []mapping
	var cur mapping
	ok := false
	flush := func() {
		if ok {
			out = append(out, cur)
		}
		ok = false
	}
	lines := bufio.NewScanner(bytes.NewReader(smaps))
	for lines.Scan() {
		line := lines.Text()
		var start, end uintptr
		var perm, offset, dev, path string
		var inode uint64
		if n, _ := fmt.Sscanf(line, "%x-%x %s %s %s %d %s", &start, &end, &perm, &offset, &dev, &inode, &path); n >= 6 {
			flush()
			cur = mapping{start, end - start}
			ok = path == exe && (perm == "r-xp" || perm == "r--p")
			continue
		}
		var kb int
		for _, field := range []string{"Private_Dirty:", "Shared_Dirty:", "Anonymous:"} {
			if n, _ := fmt.Sscanf(line, field+" %d kB", &kb); n == 1 && kb > 0 {
				ok = false
			}
		}
	}
	flush()
	return out
}
