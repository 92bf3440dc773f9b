package sqlstore

// pen is what the keeper writes with: the connection and its statements.
type pen struct {
	conn                    *conn
	insert, remove          *stmt
	putRecord, deleteRecord *stmt
	putMeta                 *stmt
}

// newPen makes the file behind c ready to be written; c stays the caller's on
// an error.
func newPen(c *conn, path string) (p pen, err error) {
	if err := initSchema(c, path); err != nil {
		return pen{}, err
	}
	p.conn = c
	for _, s := range []struct {
		to  **stmt
		sql string
	}{
		{&p.insert, sqlInsertRow}, {&p.remove, sqlDeleteRow},
		{&p.putRecord, sqlPutRecord}, {&p.deleteRecord, sqlDeleteRecord},
		{&p.putMeta, sqlPutMeta},
	} {
		if *s.to, err = c.prepare(s.sql, 0); err != nil {
			return pen{}, err
		}
	}
	return p, nil
}
