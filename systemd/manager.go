package systemd

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
	"golang.org/x/sys/unix"
)

const (
	// extendEvery is the pause between two requests for more time to start, and
	// extendBy what each asks for: one may be late, or lost.
	extendEvery = 10 * time.Second
	extendBy    = 60 * time.Second
	// feedsPerPeriod is how often the watchdog is fed within the time that it
	// waits: sd_watchdog_enabled(3) advises two.
	feedsPerPeriod = 3
)

// Manager is the service manager that has started this process. Where there is
// none it takes what it is told and does nothing. All methods may be called
// concurrently.
type Manager struct {
	log      *slog.Logger
	watchdog time.Duration // how long it waits to be fed; 0: it does not

	mu     sync.Mutex
	status string // what was said last
}

// FromEnvironment finds the service manager by NOTIFY_SOCKET, WATCHDOG_USEC and
// WATCHDOG_PID. What is wrong with them goes to log.
func FromEnvironment(log *slog.Logger) *Manager {
	wait, err := daemon.SdWatchdogEnabled(false)
	if err != nil {
		log.Warn("the watchdog of the service manager is not fed", "error", err)
	}
	return &Manager{log: log, watchdog: wait}
}

// Ready tells that the member serves.
func (m *Manager) Ready() { m.tell(daemon.SdNotifyReady + "\n" + statusLine("serving")) }

// Stopping tells that the member is about to end.
func (m *Manager) Stopping() { m.tell(daemon.SdNotifyStopping + "\n" + statusLine("stopping")) }

// Reload tells that configuration is read again, while do does so.
func (m *Manager) Reload(do func()) {
	state := daemon.SdNotifyReloading
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &now); err == nil {
		state += fmt.Sprintf("\nMONOTONIC_USEC=%d", now.Nano()/int64(time.Microsecond)) // for Type=notify-reload
	}
	m.tell(state)
	do()
	m.tell(daemon.SdNotifyReady)
}

// Starting asks for more time to start, and shows what doing says, until ctx ends.
// A start may wait for other boards, for as long as they are switched off. The
// watchdog is fed as well: a process may start a member again.
func (m *Manager) Starting(ctx context.Context, doing func() string) {
	more := fmt.Sprintf("EXTEND_TIMEOUT_USEC=%d\n", extendBy.Microseconds())
	every := extendEvery
	if m.watchdog > 0 {
		more += daemon.SdNotifyWatchdog + "\n"
		every = min(every, m.watchdog/feedsPerPeriod)
	}
	tick := time.NewTicker(every / 10)
	defer tick.Stop()
	var extended time.Time
	for {
		state := ""
		if now := time.Now(); now.Sub(extended) >= every {
			extended = now
			state = more
		}
		if text := doing(); m.news(text) {
			state += statusLine(text)
		}
		if state != "" {
			m.tell(state)
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// news reports whether the status is another than the last.
func (m *Manager) news(status string) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if status == "" || status == m.status {
		return false
	}
	m.status = status
	return true
}

// Feed feeds the watchdog until ctx ends, as long as alive returns nil. Without a
// watchdog it returns at once. alive is given the time until the next feed.
func (m *Manager) Feed(ctx context.Context, alive func(context.Context) error) {
	if m.watchdog <= 0 {
		return
	}
	every := m.watchdog / feedsPerPeriod
	tick := time.NewTicker(every)
	defer tick.Stop()
	wrong := false
	for {
		if err := within(ctx, every, alive); err == nil {
			m.tell(daemon.SdNotifyWatchdog)
			wrong = false
		} else if ctx.Err() == nil && !wrong {
			wrong = true
			m.log.Error("this member makes no progress: if that lasts, the service manager's watchdog starts it again", "watchdog", m.watchdog, "error", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

func within(ctx context.Context, d time.Duration, do func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, d)
	defer cancel()
	return do(ctx)
}

func statusLine(text string) string { return "STATUS=" + text }

func (m *Manager) tell(state string) {
	if _, err := daemon.SdNotify(false, state); err != nil {
		m.log.Warn("the service manager cannot be told how this member is", "state", state, "error", err)
	}
}
