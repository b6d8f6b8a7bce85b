package server

import "sync"

// turn is a mutex for what is held over waiting, such as over proposals. Who waits for it
// waits as for a channel, so that time goes on meanwhile where it is virtual: in a bubble of
// testing/synctest it stands still as long as anybody waits for a sync.Mutex.
type turn struct {
	once sync.Once
	c    chan struct{}
}

func (t *turn) Lock() {
	t.once.Do(func() { t.c = make(chan struct{}, 1) })
	t.c <- struct{}{}
}

func (t *turn) Unlock() { <-t.c }
