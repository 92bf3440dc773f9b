package sqlstore

// tail is the ordered run of the newest commits, dense in revision. One
// structure serves three needs: values that are not in SQLite yet, recent
// history for watchers, and the next flush. It is guarded by Store.mu.
//
// Invariant (I3): commits above flushed are never dropped.
type tail struct {
	commits  []*Commit // ascending, without gaps
	bytes    int64     // of all commits
	pending  int64     // bytes of the commits above flushed
	flushed  int64     // highest revision in SQLite
	maxBytes int64     // how much flushed history to keep
}

// first is the lowest revision held; past the newest if the tail is empty.
func (t *tail) first(current int64) int64 {
	if len(t.commits) == 0 {
		return current + 1
	}
	return t.commits[0].Rev
}

func (t *tail) append(c *Commit) {
	t.commits = append(t.commits, c)
}

// account adds the size of a finished commit.
func (t *tail) account(c *Commit) {
	n := c.size()
	t.bytes += n
	t.pending += n
}

// commit returns the commit of rev, nil if the tail does not hold it.
func (t *tail) commit(rev int64) *Commit {
	if len(t.commits) == 0 {
		return nil
	}
	i := rev - t.commits[0].Rev
	if i < 0 || i >= int64(len(t.commits)) {
		return nil
	}
	return t.commits[i]
}

// row returns the row of id, nil if the tail does not hold it.
func (t *tail) row(id ID) *Row {
	c := t.commit(id.Rev())
	if c == nil || id.Sub() >= int64(len(c.Rows)) {
		return nil
	}
	return &c.Rows[id.Sub()]
}

// unflushed lists the commits from above flushed up to rev.
func (t *tail) unflushed(rev int64) []*Commit {
	if len(t.commits) == 0 {
		return nil
	}
	base := t.commits[0].Rev
	from, to := max(t.flushed+1-base, 0), rev+1-base
	if from >= to {
		return nil
	}
	return append([]*Commit(nil), t.commits[from:to]...)
}

// markFlushed notes that everything up to rev is in SQLite and drops the
// oldest commits beyond the bound.
func (t *tail) markFlushed(rev int64) {
	for _, c := range t.unflushed(rev) {
		t.pending -= c.size()
	}
	t.flushed = rev
	t.trim()
}

func (t *tail) trim() {
	n := 0
	for n < len(t.commits) && t.bytes > t.maxBytes && t.commits[n].Rev <= t.flushed {
		t.bytes -= t.commits[n].size()
		n++
	}
	if n == 0 {
		return
	}
	clear(t.commits[:n])
	t.commits = t.commits[n:]
	if cap(t.commits) > 1024 && len(t.commits) < cap(t.commits)/4 {
		t.commits = append([]*Commit(nil), t.commits...)
	}
}
