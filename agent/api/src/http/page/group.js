// The group's ranks, live: the head is asked once a second, and more often while an answer comes.

const POLL_MS = 1000;
/** A group can lose a rank and form again within a second. */
const RUNNING_POLL_MS = 250;
/** Pause between two questions while the page is hidden and no answer comes. */
const HIDDEN_POLL_MS = 10_000;
const POLL_TIMEOUT_MS = 4000;
/** Time for which the page shows a loss that is over. A group can lose a rank and serve again within half a second. */
const RECENT_MS = 8000;
/** Most events that the list keeps. */
const MAX_EVENTS = 100;

/** Most ranks that have dots of their own in the head line. */
const MAX_DOTS = 8;

/** Tone of each phase: it chooses the colour beside the word. */
const TONES = { serving: 'good', lost: 'bad', pending: 'idle', scheduling: 'idle' };

const group = {
  /** The head's last answer, or null if the head cannot be reached. */
  status: null,
  asked: false,
  /** Whether the last answer told of a trouble. */
  troubled: false,
  /** Time of the last loss of each rank that was lost. */
  lostAt: new Map(),
  /** Functions that are called after each answer. */
  watchers: [],
};

function toneOf(phase) {
  return TONES[phase] ?? 'busy';
}

async function askGroup() {
  try {
    const response = await callHead('ready', { signal: AbortSignal.timeout(POLL_TIMEOUT_MS) });
    if (response.status === 401) return { locked: true, ranks: [], pending: [] };
    const status = await response.json();
    return Array.isArray(status.ranks) ? status : null;
  } catch {
    return null;
  }
}

async function followGroup() {
  for (;;) {
    const status = await askGroup();
    const before = group.status;
    noteChanges(group.asked ? before : undefined, status);
    group.status = status;
    group.asked = true;
    for (const rank of lostRanks(before, status)) group.lostAt.set(rank, Date.now());
    showGroup();
    for (const watcher of group.watchers) watcher(before, status);
    const pause = runs.size > 0 ? RUNNING_POLL_MS : document.hidden ? HIDDEN_POLL_MS : POLL_MS;
    await new Promise((wake) => {
      const timer = setTimeout(wake, pause);
      const look = () => {
        if (document.hidden) return;
        clearTimeout(timer);
        document.removeEventListener('visibilitychange', look);
        wake();
      };
      if (pause === HIDDEN_POLL_MS) document.addEventListener('visibilitychange', look);
    });
  }
}

/** Writes what changed between two answers into the list of events. `before` is undefined at the first answer. */
function noteChanges(before, now) {
  if (before === undefined) return;
  if (Boolean(before) !== Boolean(now)) noteEvent(now ? 'the head answers again' : 'the head cannot be reached', now ? 'good' : 'bad');
  if (!before || !now) return;
  const old = new Map(before.ranks.map((rank) => [rank.rank, rank]));
  for (const rank of now.ranks) {
    const { phase, restarts = 0 } = old.get(rank.rank) ?? {};
    if ((rank.restarts ?? 0) > restarts && rank.phase !== 'lost') noteEvent(`rank ${rank.rank}: lost`, 'bad');
    if (phase === rank.phase) continue;
    noteEvent(`rank ${rank.rank}: ${rank.phase}${rank.message ? `, ${rank.message}` : ''}`, toneOf(rank.phase));
  }
  if (before.ready !== now.ready) {
    noteEvent(now.ready ? `the group is ready, in epoch ${now.epoch}` : 'the group is not ready', now.ready ? 'good' : 'bad');
  } else if (before.epoch !== now.epoch) {
    noteEvent(`epoch ${now.epoch} began`, 'good');
  }
}

function noteEvent(text, tone) {
  const time = new Date().toLocaleTimeString([], { hour: '2-digit', minute: '2-digit', second: '2-digit' });
  const line = element('li', {}, element('time', {}, time), element('span', { className: `dot ${tone}` }), element('span', {}, text));
  $('events').append(line);
  while ($('events').childElementCount > MAX_EVENTS) $('events').firstChild.remove();
}

/** Returns the ranks that were lost between two answers of the head, or are lost now. */
function lostRanks(before, now) {
  const old = new Map((before?.ranks ?? []).map((rank) => [rank.rank, rank.restarts ?? 0]));
  const lost = (now?.ranks ?? []).filter((rank) => rank.phase === 'lost' || (rank.restarts ?? 0) > (old.get(rank.rank) ?? Infinity));
  return lost.map((rank) => rank.rank);
}

/** Returns the state of the group in words, and its tone. */
function describeGroup(status) {
  if (!status) return ['head unreachable', 'bad'];
  if (status.locked) return ['API key needed', 'busy'];
  const serving = status.ranks.filter((rank) => rank.phase === 'serving').length;
  const words = `${serving}/${status.ranks.length} ranks`;
  if (status.ready) return [words, 'good'];
  const lost = status.ranks.some((rank) => rank.phase === 'lost');
  return [`${words} · ${lost ? 'rank lost' : 'not ready'}`, lost ? 'bad' : 'busy'];
}

/** Returns a sentence about a group that cannot answer now, or an empty text. */
function describeTrouble(status) {
  if (!group.asked || status?.ready || status?.locked) return '';
  if (!status) return 'The head cannot be reached. The page keeps trying.';
  const lost = status.ranks.filter((rank) => rank.phase === 'lost').map((rank) => rank.rank);
  const reason = lost.length ? `Rank ${lost.join(', ')} is lost.` : `The group is not ready: ${status.pending.join('; ') || 'its ranks join'}.`;
  return status.accepting ? `${reason} Answers wait and go on when the group has formed again.` : reason;
}

/** Returns the ranks that were lost a short while ago. */
function recentlyLost() {
  return [...group.lostAt].filter(([, time]) => Date.now() - time < RECENT_MS).map(([rank]) => rank).sort((one, other) => one - other);
}

function showGroup() {
  const { status } = group;
  const [words, tone] = describeGroup(status);
  const recent = recentlyLost();
  setText($('group-words'), words);
  setText($('group-epoch'), status?.ready ? ` · epoch ${status.epoch}` : '');
  showDots(status?.ranks ?? [], tone);
  const trouble = describeTrouble(status);
  const back = status?.ready && recent.length ? `Rank ${recent.join(', ')} was lost and is back, in epoch ${status.epoch}.` : '';
  setText($('group-alert').querySelector('span'), trouble || back);
  $('group-alert').hidden = !trouble && !back;
  $('group-alert').classList.toggle('over', !trouble);
  $('group-alert').querySelector('use').setAttribute('href', trouble ? '#i-warn' : '#i-check');
  // The ranks show themselves when something is wrong with them, once for each trouble.
  const troubled = Boolean(status && (trouble || back));
  if (troubled && !group.troubled) openGroup(true);
  group.troubled = troubled;
  showRanks(status?.ranks ?? [], recent);
}

/** Shows a dot for each rank of a small group, and one for a large group. */
function showDots(ranks, tone) {
  const tones = ranks.length > 0 && ranks.length <= MAX_DOTS ? ranks.map((rank) => toneOf(rank.phase)) : [tone];
  const dots = $('group-dots');
  while (dots.childElementCount > tones.length) dots.lastChild.remove();
  tones.forEach((own, index) => {
    const dot = dots.children[index] ?? dots.appendChild(element('span'));
    if (dot.className !== `dot ${own}`) dot.className = `dot ${own}`;
  });
}

function showRanks(ranks, recent) {
  const list = $('ranks');
  while (list.childElementCount > ranks.length) list.lastChild.remove();
  ranks.forEach((rank, index) => {
    const node = list.children[index] ?? list.appendChild(rankNode());
    const [dot, name, phase, place, progress] = node.children;
    const percent = Number.parseInt(rank.loaded ?? '', 10);
    if (dot.className !== `dot ${toneOf(rank.phase)}`) dot.className = `dot ${toneOf(rank.phase)}`;
    setText(name, `rank ${rank.rank}`);
    setText(phase, rank.phase + (rank.loaded ? ` ${rank.loaded}` : ''));
    setText(place, rank.message || `node ${rank.node}${rank.restarts ? ` · lost ${rank.restarts} ${rank.restarts === 1 ? 'time' : 'times'}` : ''}`);
    node.classList.toggle('recent', recent.includes(rank.rank));
    progress.hidden = Number.isNaN(percent);
    progress.value = Number.isNaN(percent) ? 0 : percent;
    node.title = rank.message ?? '';
  });
}

function rankNode() {
  const part = (className) => element('span', { className });
  return element('li', { className: 'rank' }, part('dot'), part('name'), part('phase'), part('place'), element('progress', { max: 100, 'aria-label': 'Weights loaded' }));
}
