package server

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"ginnel/control/store"
)

// batch is a number of commands that are stored in one transaction.
type batch struct {
	*core
	moment
	cmds   []*command
	txs    []*tx // of the commands that did not fail
	writes int
}

// room reports whether another command fits in.
func (b *batch) room() bool { return b.writes < store.MaxOps-batchRoom && len(b.cmds) < store.MaxOps }

// take runs a command.
func (b *batch) take(cmd *command) {
	b.cmds = append(b.cmds, cmd)
	b.runOn(cmd)
}

func (b *batch) runOn(cmd *command) {
	t := &tx{state: b.st, moment: b.moment}
	if cmd.err = cmd.run(t); cmd.err != nil {
		t.rollback()
		return
	}
	cmd.wrote = len(t.writes) > 0
	b.writes += len(t.writes)
	b.txs = append(b.txs, t)
}

// takeWaiting runs a command that is waiting, if there is one.
func (b *batch) takeWaiting() bool {
	select {
	case cmd := <-b.cmdc:
		b.take(cmd)
		return true
	default:
		return false
	}
}

// takeDue runs what time has brought about, if anything. It is due again soon, until it has been
// done.
func (b *batch) takeDue() bool {
	if id, ok := b.alarms.pop(b.tick); ok {
		b.alarms.set(id, b.tick.Add(retryStore))
		b.take(&command{run: func(t *tx) error { b.nodeDue(t, id); return nil }})
		return true
	}
	if id, ok := b.expiries.pop(b.now); ok {
		b.expiries.set(id, b.now.Add(retryStore))
		b.take(&command{run: func(t *tx) error { b.nodeDue(t, id); return nil }})
		return true
	}
	if id, ok := b.elections.pop(b.tick); ok {
		b.elections.set(id, b.tick.Add(retryStore))
		b.take(&command{run: func(t *tx) error { b.keepElection(t, id); return nil }})
		return true
	}
	if id, ok := b.deadlines.pop(b.tick); ok {
		b.deadlines.set(id, b.tick.Add(retryStore))
		b.take(&command{run: func(t *tx) error { b.loginDue(t, id); return nil }})
		return true
	}
	return false
}

// commit stores what the commands have written. If the store fails, those fail that needed it; the
// others still happen.
func (b *batch) commit() {
	err := b.persist()
	if err == nil {
		return
	}
	b.log.Error("storing failed", "err", err)
	b.metrics.storeErrors.Inc()
	for i := len(b.txs) - 1; i >= 0; i-- {
		b.txs[i].rollback()
	}
	b.txs, b.stale = nil, true
	for _, cmd := range b.cmds {
		switch {
		case cmd.wrote:
			cmd.err = err
		case cmd.err == nil:
			b.rerun(cmd, err)
		}
	}
}

// rerun repeats a command that had nothing to store when others had; now that those have failed it
// may have.
func (b *batch) rerun(cmd *command, storeErr error) {
	b.runOn(cmd)
	if cmd.err == nil && cmd.wrote {
		last := b.txs[len(b.txs)-1]
		last.rollback()
		b.txs, cmd.err = b.txs[:len(b.txs)-1], storeErr
	}
}

// persist puts all writes into one transaction: of several to one record the last counts.
func (b *batch) persist() error {
	records := make(map[string]any)
	var paths []string
	for _, t := range b.txs {
		for _, w := range t.writes {
			if _, twice := records[w.path]; !twice {
				paths = append(paths, w.path)
			}
			records[w.path] = w.record
		}
	}
	if len(paths) == 0 {
		return nil
	}
	var txn store.Txn
	for _, path := range paths {
		txn.If = append(txn.If, store.Condition{Key: path, Revision: b.st.revisions[path]})
		record := records[path]
		if record == nil {
			txn.Del = append(txn.Del, path)
			continue
		}
		value, err := json.Marshal(record)
		if err != nil {
			return &storeError{fmt.Errorf("encoding %s: %w", path, err)}
		}
		txn.Put = append(txn.Put, store.Put{Key: path, Value: value})
	}
	ctx, cancel := context.WithTimeout(context.Background(), storeTimeout)
	defer cancel()
	revision, err := b.store.Transact(ctx, txn)
	if err != nil {
		return &storeError{err}
	}
	b.revision = revision
	b.metrics.transactions.Inc()
	for _, p := range txn.Put {
		b.st.revisions[p.Key] = revision
	}
	for _, path := range txn.Del {
		delete(b.st.revisions, path)
	}
	return nil
}

// storeError says that a change was not made because it could not be kept.
type storeError struct{ err error }

func (e *storeError) Error() string { return fmt.Sprintf("storing the change: %v", e.err) }

func (e *storeError) Unwrap() error { return e.err }

func isStoreError(err error) bool {
	_, ok := errors.AsType[*storeError](err)
	return ok || errors.Is(err, errClosed)
}
