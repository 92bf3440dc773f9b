//go:build linux

package install

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// groupPrefix is followed by the test process's id and a number.
const groupPrefix = "limpet-install-"

// hierarchies are the trees of control groups that service managers use: two machines in one group
// would end each other's services.
func hierarchies() []string {
	var trees []string
	for _, tree := range []string{"/sys/fs/cgroup", "/sys/fs/cgroup/unified", "/sys/fs/cgroup/systemd"} {
		if _, err := os.Stat(filepath.Join(tree, "cgroup.procs")); err == nil {
			trees = append(trees, tree)
		}
	}
	return trees
}

// groups counts them, since tests run side by side.
var groups atomic.Int64

// newGroups makes a control group in each hierarchy, and removes those of dead test processes.
func newGroups() (folders []string, err error) {
	name := fmt.Sprintf("%s%d-%d", groupPrefix, os.Getpid(), groups.Add(1))
	for _, tree := range hierarchies() {
		old, err := filepath.Glob(filepath.Join(tree, groupPrefix+"*"))
		if err != nil {
			return nil, err
		}
		for _, folder := range old {
			pid, _, _ := strings.Cut(strings.TrimPrefix(filepath.Base(folder), groupPrefix), "-")
			if _, err := os.Stat("/proc/" + pid); err != nil {
				removeGroup(folder) // an error says that something still runs in it
			}
		}
		folder := filepath.Join(tree, name)
		if err := os.Mkdir(folder, 0o755); err != nil {
			return nil, err
		}
		folders = append(folders, folder)
	}
	return folders, nil
}

// removeGroup removes a group and those that a service manager has made below it.
func removeGroup(folder string) error {
	var all []string
	err := filepath.WalkDir(folder, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() {
			all = append(all, path)
		}
		return err
	})
	if err != nil {
		return err
	}
	for _, path := range slices.Backward(all) {
		if err := unix.Rmdir(path); err != nil {
			return fmt.Errorf("remove %s: %w", path, err)
		}
	}
	return nil
}
