package v2tree

// Counts are what requests came to on one member, since it started.
type Counts struct {
	Sets, Creates, Updates, Swaps, Deletes, DeletesIf Count
	Expired                                           uint64
}

// Count is how many requests of a kind did something, and how many did not.
type Count struct {
	Success, Fail uint64
}

func (c *Counts) count(op Op, ok bool) {
	n := map[Op]*Count{
		Set: &c.Sets, Create: &c.Creates, CreateInOrder: &c.Creates, Update: &c.Updates, Swap: &c.Swaps, Delete: &c.Deletes, DeleteIf: &c.DeletesIf,
	}[op]
	if ok {
		n.Success++
	} else {
		n.Fail++
	}
}
