package meta

import "dfs"

// apply notes where the fragments of chunks are.
func (o *SetPresent) apply(tx *tx) (Reply, error) {
	if err := tx.needOwn(); err != nil {
		return Reply{}, err
	}
	cl, err := tx.v.cluster()
	if err != nil {
		return Reply{}, err
	}
	set := func(id dfs.ChunkID, have bool) error {
		c, err := tx.chunk(id)
		if err != nil || c == nil || have && !c.sealed {
			return err
		}
		home, err := tx.v.home(id.PG(cl.buckets))
		if err != nil {
			return err
		}
		for i, p := range home {
			if p.server != o.Server {
				continue
			}
			mask := c.presentNow(home) &^ (1 << i)
			if have {
				mask |= 1 << i
			}
			c.present, c.epoch, c.dirty = mask, cl.epoch, true
		}
		return nil
	}
	for _, id := range o.Have {
		if err := set(id, true); err != nil {
			return Reply{}, err
		}
	}
	for _, id := range o.Lack {
		if err := set(id, false); err != nil {
			return Reply{}, err
		}
	}
	return Reply{}, nil
}
