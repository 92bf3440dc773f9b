//go:build linux

package hosts

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"limpet/e2e/proc"
)

// errNoThrottle means that this kernel or container offers no control group for disk writes.
var errNoThrottle = errors.New("slow disks need the blkio control group (v1) or the io controller (v2)")

// Where control groups are, by convention of every distribution.
const (
	groupsV1 = "/sys/fs/cgroup/blkio"
	groupsV2 = "/sys/fs/cgroup"
)

// controlGroup limits how fast the processes in it may write to a device.
type controlGroup struct {
	folder string
	v2     bool
}

// groupOf is the control group named name, which need not exist.
func groupOf(name string) (*controlGroup, error) {
	name = "limpet-hosts-" + name
	if _, err := os.Stat(filepath.Join(groupsV1, "blkio.throttle.write_iops_device")); err == nil {
		return &controlGroup{folder: filepath.Join(groupsV1, name)}, nil
	}
	offered, err := os.ReadFile(filepath.Join(groupsV2, "cgroup.controllers"))
	if err != nil || !slices.Contains(strings.Fields(string(offered)), "io") {
		return nil, errNoThrottle
	}
	return &controlGroup{folder: filepath.Join(groupsV2, name), v2: true}, nil
}

func newControlGroup(name string) (*controlGroup, error) {
	g, err := groupOf(name)
	if err != nil {
		return nil, err
	}
	if g.v2 {
		// In a container this may be refused because its own processes are in the way.
		if err := os.WriteFile(filepath.Join(groupsV2, "cgroup.subtree_control"), []byte("+io"), 0); err != nil {
			return nil, fmt.Errorf("%w: %w", errNoThrottle, err)
		}
	}
	return g, os.Mkdir(g.folder, 0o755)
}

// members is the file that lists the group's processes; a process whose id is written to it enters.
func (g *controlGroup) members() string { return filepath.Join(g.folder, "cgroup.procs") }

// limitWrites allows iops writes a second to the device, given as MAJOR:MINOR; 0 allows all.
func (g *controlGroup) limitWrites(device string, iops int) error {
	if !g.v2 {
		return g.write("blkio.throttle.write_iops_device", fmt.Sprintf("%s %d", device, iops))
	}
	limit := "max"
	if iops != 0 {
		limit = strconv.Itoa(iops)
	}
	return g.write("io.max", fmt.Sprintf("%s wiops=%s", device, limit))
}

func (g *controlGroup) write(name, value string) error {
	return os.WriteFile(filepath.Join(g.folder, name), []byte(value), 0)
}

// remove ends the group and every process in it. Limits are lifted first: a process that waits
// for a write cannot die.
func (g *controlGroup) remove(device string) error {
	if device != "" {
		if err := g.limitWrites(device, 0); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), letGoDeadline)
	defer cancel()
	return proc.Eventually(ctx, 20*time.Millisecond, func() error {
		pids, err := os.ReadFile(g.members())
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		for pid := range strings.FieldsSeq(string(pids)) {
			if n, err := strconv.Atoi(pid); err == nil {
				syscall.Kill(n, syscall.SIGKILL)
			}
		}
		return os.Remove(g.folder)
	})
}
