package meta

// apply drops the records of sealed chunks without live bytes. Their servers
// learn it when they report what they hold.
func (o *DropChunks) apply(tx *tx) (Reply, error) {
	if err := tx.needOwn(); err != nil {
		return Reply{}, err
	}
	var rep Reply
	for _, id := range o.Chunks {
		c, err := tx.v.chunk(id)
		if err != nil {
			return Reply{}, err
		}
		if c == nil || !c.droppable {
			continue
		}
		for _, k := range [...][]byte{key1(kindChunk, uint64(id)), key1(kindDroppable, uint64(id))} {
			if err := tx.t.Delete(k); err != nil {
				return Reply{}, err
			}
		}
		if err := tx.countGroup(id, -1); err != nil {
			return Reply{}, err
		}
		tx.counts.records--
		rep.Dropped = append(rep.Dropped, id)
	}
	return rep, nil
}
