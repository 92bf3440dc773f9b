package sqlstore

import "sync"

// rowCache keeps rows that were read from SQLite, bounded in bytes. A row
// never changes under its id, so nothing is ever invalidated: rows of
// compacted versions simply age out. Eviction is first in, first out with one
// second chance, which is close to LRU at the price of one bit a row.
// Safe for concurrent use.
type rowCache struct {
	mu       sync.Mutex
	rows     map[ID]*cachedRow
	queue    []ID
	bytes    int64
	maxBytes int64
}

type cachedRow struct {
	row  *Row
	used bool
}

func newRowCache(maxBytes int64) *rowCache {
	return &rowCache{rows: make(map[ID]*cachedRow), maxBytes: maxBytes}
}

func (c *rowCache) get(id ID) *Row {
	c.mu.Lock()
	defer c.mu.Unlock()
	e := c.rows[id]
	if e == nil {
		return nil
	}
	e.used = true
	return e.row
}

func (c *rowCache) add(r *Row) {
	// One value may take an eighth of the cache; a larger one would push out
	// everything else for a single reader.
	if r.size() > c.maxBytes/8 {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.rows[r.ID] != nil {
		return
	}
	c.rows[r.ID] = &cachedRow{row: r}
	c.queue = append(c.queue, r.ID)
	c.bytes += r.size()
	for c.bytes > c.maxBytes {
		id := c.queue[0]
		c.queue = c.queue[1:]
		e := c.rows[id]
		if e.used {
			e.used = false
			c.queue = append(c.queue, id)
			continue
		}
		delete(c.rows, id)
		c.bytes -= e.row.size()
	}
}
