package dead

import (
	"context"
	"log/slog"
	"time"

	"github.com/crucible-eval/crucible/pkg/eval"
	"github.com/crucible-eval/crucible/pkg/task"
)

const (
	// page is how many entries of each list one round compares.
	page = 100
	// shown is how many dead letters the archive shows at least, the newest ones. The list in the store has all.
	shown = 1000
	// settled is after how many rounds a dead letter is missed in the archive: the worker that failed it puts it there.
	settled = 2
)

// Queue is what has to do with the archive: a *task.Queue.
type Queue interface {
	// Turn says whether it is this process's turn to do something which one of all does each time; at most one has it
	// within every.
	Turn(ctx context.Context, what string, every time.Duration) (bool, error)
	// Unarchived returns those of the dispatches that are neither archived, nor waiting or in hand to be.
	Unarchived(ctx context.Context, all []eval.Dispatch) ([]eval.Dispatch, error)
	// Archived returns archived tasks of each queue, the newest first, limit from a place on.
	Archived(ctx context.Context, from, limit int) ([]task.Archived, error)
	EnqueueAll(ctx context.Context, all []eval.Dispatch) error
	// Unarchive removes archived tasks.
	Unarchive(ctx context.Context, all []task.Archived) error
}

// mirror makes the queue's archive say what the list of dead letters says: the newest of those that are there, and
// none that is not. Mostly both agree, because the worker which fails an evaluation archives its task, and whoever
// retries or deletes a dead letter takes it away. The rest is what failed without a worker, what somebody did to the
// archive, and what happened while the queue was away.
//
// Each round compares the newest page of both lists, and the next page of a walk through them.
type mirror struct {
	store eval.DeadLetters
	queue Queue
	every time.Duration
	log   *slog.Logger

	cursor string // where the walk through the dead letters goes on
	walked int
	from   int // where the walk through the archive goes on
}

func (m *mirror) round(ctx context.Context) error {
	if ours, err := m.queue.Turn(ctx, "archive", m.every*4/5); err != nil || !ours {
		return err
	}
	next, err := m.add(ctx, "")
	if err == nil && m.cursor != "" {
		next, err = m.add(ctx, m.cursor)
	}
	if err != nil {
		return err
	}
	m.cursor = next
	if m.walked += page; m.walked >= shown || next == "" {
		m.cursor, m.walked = "", 0
	}

	more, err := m.remove(ctx, 0)
	if err == nil && m.from > 0 {
		more, err = m.remove(ctx, m.from)
	}
	if m.from += page; !more {
		m.from = 0
	}
	return err
}

// add has the missing ones of a page of dead letters archived, by handing them to a worker: it finds them failed, and
// says why. It returns the cursor of the next page.
func (m *mirror) add(ctx context.Context, cursor string) (next string, err error) {
	letters, err := m.store.ListDeadLetters(ctx, eval.DeadLetterQuery{Project: eval.DefaultProject, Limit: page, Cursor: cursor})
	if err != nil {
		return "", err
	}
	var all []eval.Dispatch
	for _, d := range letters.DeadLetters {
		if time.Since(d.FailedAt) > settled*m.every {
			all = append(all, d.Dispatch())
		}
	}
	missing, err := m.queue.Unarchived(ctx, all)
	if err != nil {
		return "", err
	}
	if len(missing) > 0 {
		m.log.Info("dead letters missing in the queue's archive are put there", "count", len(missing))
	}
	return letters.Next, m.queue.EnqueueAll(ctx, missing)
}

// remove takes from a page of the archive what is no dead letter any more, and what is there twice. more says whether
// the archive goes on.
func (m *mirror) remove(ctx context.Context, from int) (more bool, err error) {
	archived, err := m.queue.Archived(ctx, from, page)
	if err != nil || len(archived) == 0 {
		return false, err
	}
	ids := make([]eval.ID, len(archived))
	for i, a := range archived {
		ids[i] = a.Evaluation
	}
	letters, err := m.store.ListDeadLetters(ctx, eval.DeadLetterQuery{Project: eval.DefaultProject, IDs: ids, Limit: eval.MaxPage})
	if err != nil {
		return false, err
	}
	dead := map[eval.ID]bool{}
	for _, d := range letters.DeadLetters {
		dead[d.ID] = true
	}
	var gone []task.Archived
	for _, a := range archived {
		if !dead[a.Evaluation] {
			gone = append(gone, a)
		}
		delete(dead, a.Evaluation) // the next one of it is one too many
	}
	if len(gone) > 0 {
		m.log.Info("tasks in the queue's archive that are no dead letters any more are removed", "count", len(gone))
	}
	return true, m.queue.Unarchive(ctx, gone)
}
