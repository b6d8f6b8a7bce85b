package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

const (
	probeCount  = 200
	flushColumn = 15 // of /sys/block/*/stat: flushes completed (Documentation/block/stat.rst)
)

// probe says how many flushes of the machine's disks the fsyncs of a file caused,
// beyond those that happen anyway in the same time.
func probe(folder string) (string, error) {
	f, err := os.CreateTemp(folder, "probe-")
	if err != nil {
		return "", err
	}
	defer os.Remove(f.Name())
	defer f.Close()
	block := make([]byte, 4096)
	fsyncs := func() error {
		for i := range probeCount {
			block[0]++
			if _, err := f.WriteAt(block, int64(i)*int64(len(block))); err != nil {
				return err
			}
			if err := f.Sync(); err != nil {
				return err
			}
		}
		return nil
	}
	before, err := flushes()
	if err != nil {
		return "", err
	}
	took, err := timed(fsyncs)
	if err != nil {
		return "", err
	}
	after, err := flushes()
	if err != nil {
		return "", err
	}
	time.Sleep(took) // how many there are without us
	idle, err := flushes()
	if err != nil {
		return "", err
	}
	n := max(0, (after-before)-(idle-after))
	verdict := "no: fsync returns before the disk has the data"
	if n >= probeCount {
		verdict = "yes"
	}
	return fmt.Sprintf("%s (%d writes with fsync, one after the other, caused %d flushes of the disks)", verdict, probeCount, n), nil
}

// flushes counts the flushes that all block devices have done since the start.
func flushes() (int, error) {
	files, err := filepath.Glob("/sys/block/*/stat")
	if err != nil {
		return 0, err
	}
	sum, known := 0, false
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			return 0, err
		}
		fields := strings.Fields(string(data))
		if len(fields) <= flushColumn {
			continue
		}
		n, err := strconv.Atoi(fields[flushColumn])
		if err != nil {
			return 0, fmt.Errorf("%s: %w", file, err)
		}
		sum, known = sum+n, true
	}
	if !known {
		return 0, fmt.Errorf("this kernel does not count flushes (it is older than 5.5)")
	}
	return sum, nil
}
