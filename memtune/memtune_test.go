package memtune

import (
	"context"
	"os"
	"reflect"
	"runtime/debug"
	"testing"
	"testing/synctest"
)

// The text is the kernel's: each mapping a line of address, rights, offset,
// device, inode and path, then its figures.
func TestCleanMappings(t *testing.T) {
	smaps, err := os.ReadFile("testdata/smaps")
	if err != nil {
		t.Fatal(err)
	}
	want := []mapping{
		{0x400000, 0xa00000},  // code
		{0xe00000, 0x800000},  // constants
		{0x2000000, 0x100000}, // the last one, ended by nothing
	}
	if got := cleanMappings(smaps, "/opt/limpet"); !reflect.DeepEqual(got, want) {
		t.Errorf("cleanMappings(testdata/smaps):\n got %x\nwant %x", got, want)
	}
	if got := cleanMappings(smaps, "/opt/another"); got != nil {
		t.Errorf("cleanMappings for a program that is not mapped: got %x, want none", got)
	}
	if got := cleanMappings(nil, "/opt/limpet"); got != nil {
		t.Errorf("cleanMappings of nothing: got %x, want none", got)
	}
}

func TestPercent(t *testing.T) {
	for _, c := range []struct {
		live uint64
		want int
	}{
		{0, 160},        // Go's least heap counts: 6 MiB over 4 MiB, and a tenth
		{1 << 20, 160},  // below that heap nothing changes
		{4 << 20, 160},  //
		{6 << 20, 110},  //
		{30 << 20, 30},  //
		{60 << 20, 30},  //
		{200 << 20, 30}, // never less
		{1 << 30, 30},   //
		{1 << 40, 30},   //
	} {
		if got := percent(c.live); got != c.want {
			t.Errorf("percent(%d MiB): got %d, want %d", c.live>>20, got, c.want)
		}
	}
}

func TestPercentOnlyFallsAsTheHeapGrows(t *testing.T) {
	last := percent(0)
	for live := uint64(0); live < 2<<30; live += 1 << 20 {
		p := percent(live)
		if p > last || p%10 != 0 || p <= 0 {
			t.Fatalf("percent(%d MiB): got %d after %d, want at most that, a multiple of 10 above 0", live>>20, p, last)
		}
		last = p
	}
}

// collectorAfterRun is the target of the collector that a few looks at the heap
// leave behind; it was 77 before.
func collectorAfterRun(t *testing.T) int {
	t.Helper()
	before := debug.SetGCPercent(77)
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), 5*retune)
		defer cancel()
		Run(ctx)
		if ctx.Err() == nil {
			t.Error("Run returned before its context ended")
		}
	})
	return debug.SetGCPercent(before)
}

func TestRunSetsTheCollector(t *testing.T) {
	t.Setenv("GOGC", "")
	if got := collectorAfterRun(t); got < 30 || got > 170 || got%10 != 0 {
		t.Errorf("the collector's target after Run: got %d, want what percent gives", got)
	}
}

func TestRunLeavesTheOperatorsChoiceAlone(t *testing.T) {
	t.Setenv("GOGC", "100")
	if got := collectorAfterRun(t); got != 77 {
		t.Errorf("the collector's target after Run with GOGC set: got %d, want it as it was, 77", got)
	}
}

// Settle works on the test's own process: nothing may be lost by it.
func TestSettleLosesNothing(t *testing.T) {
	kept := make([]byte, 1<<20)
	for i := range kept {
		kept[i] = byte(i)
	}
	if err := Settle(); err != nil {
		t.Fatalf("Settle: %v", err)
	}
	for i := range kept {
		if kept[i] != byte(i) {
			t.Fatalf("byte %d after Settle: got %d, want %d", i, kept[i], byte(i))
		}
	}
	if got, want := textOfTheProgram, "constants are mapped from the program's file"; got != want {
		t.Errorf("a constant after Settle: got %q, want %q", got, want)
	}
}

var textOfTheProgram = "constants are mapped from the program's file"
