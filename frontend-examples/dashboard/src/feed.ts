/**
 * The ledger as it goes on: one subscription for the whole page. It keeps its cursor, so what happened while the
 * connection was lost comes in when it is back; the feed remembers where that was.
 */
import { type TypedDocumentNode, stringifyDocument } from "urql";
import { BeginDocument, FollowDocument, type FollowSubscription, HeadDocument, type LineFragment } from "./generated";
import { type Link, pause, words } from "./server";

const EVENTS_MAX = 2_000;
const GAPS_MAX = 50;
// Screens are told at most this often, however much happens.
const FLUSH_MS = 150;
const WAIT_MS_MAX = 8_000;

export type Line = LineFragment;
export type Standing = "connecting" | "live" | "lost";

/** A time without connection: which events came in late because of it. */
export interface Gap {
  id: number;
  lostAt: Date;
  backAt: Date | null;
  after: number;
  through: number | null;
  /** How many events of each institution came in late: more of them than are kept. */
  late: ReadonlyMap<string, number>;
}

export interface FeedState {
  standing: Standing;
  /** Newest first. */
  events: readonly Line[];
  /** Newest first. */
  gaps: readonly Gap[];
  /** How many events came since the page was opened. */
  received: number;
  /** Why it began anew, when it had to. */
  notice: string | null;
}

/** The number that orders what this key sees: root sees all institutions, everybody else one. */
export const orderOf = (line: Line): number => line.globalSequence ?? line.sequence;

/** Until it is known how far the ledger had gone, whatever comes may be late. */
const isLate = (line: Line, { after, backAt, through }: Gap): boolean =>
  backAt !== null && orderOf(line) > after && (through === null || orderOf(line) <= through);

function counted(gap: Gap, lines: readonly Line[], by: 1 | -1): Gap {
  if (lines.length === 0) return gap;
  const late = new Map(gap.late);
  for (const { institutionId: of } of lines) late.set(of, (late.get(of) ?? 0) + by);
  return { ...gap, late };
}

export class Feed {
  private state: FeedState = { standing: "connecting", events: [], gaps: [], received: 0, notice: null };
  private fresh: Line[] = [];
  private timer: ReturnType<typeof setTimeout> | undefined;
  private listeners = new Set<() => void>();
  private ended = false;
  private last = 0;
  /** How often it came back: an answer to an earlier return says nothing of this one. */
  private returns = 0;
  private socket;

  constructor(private link: Link, onRefused: (why: string) => void) {
    this.socket = link.openSocket({
      onLive: () => this.back(),
      onLost: () => this.lost(),
      onRefused: (why) => !this.ended && onRefused(why),
    });
    addEventListener("offline", this.offline);
    void this.begin(0);
  }

  subscribe = (listener: () => void): (() => void) => {
    this.listeners.add(listener);
    return () => this.listeners.delete(listener);
  };

  read = (): FeedState => this.state;

  /** Another subscription on the same socket: one without a cursor, begun again when the connection is. */
  watch<Told>(document: TypedDocumentNode<Told, Record<string, never>>, next: (told: Told) => void): () => void {
    return this.socket.subscribe<Told>(
      { query: stringifyDocument(document) },
      { next: ({ data }) => data && next(data), error: () => undefined, complete: () => undefined },
    );
  }

  close(): void {
    this.ended = true;
    clearTimeout(this.timer);
    removeEventListener("offline", this.offline);
    void this.socket.dispose();
  }

  private offline = (): void => this.socket.terminate();

  private async begin(attempt: number): Promise<void> {
    const { data, error } = await this.link.client.query(BeginDocument, {}).toPromise();
    if (this.ended) return;
    if (!data) {
      if (error?.networkError) this.set({ standing: "lost" });
      else this.set({ notice: error ? words(error) : null });
      await pause(Math.min(WAIT_MS_MAX, 250 * 2 ** attempt));
      if (!this.ended) await this.begin(attempt + 1);
      return;
    }
    this.last = data.ledgerHead.sequence;
    this.set({ events: data.ledgerEvents.edges.map(({ node }) => node), gaps: [] });
    this.follow(data.ledgerHead.cursor);
  }

  private follow(after: string): void {
    // graphql-ws sends this same object again after a lost connection: so the cursor in it is moved on.
    const variables = { after };
    this.socket.subscribe<FollowSubscription>(
      { query: stringifyDocument(FollowDocument), variables },
      {
        next: ({ data }) => {
          if (!data) return;
          variables.after = data.ledgerEvents.cursor;
          if (data.ledgerEvents.node) this.take(data.ledgerEvents.node);
        },
        error: (reason) => this.startAnew(reason),
        complete: () => undefined,
      },
    );
  }

  /** Such as a cursor from before a restore: the server says so, and what is there is read anew. */
  private startAnew(reason: unknown): void {
    if (this.ended || (reason as CloseEvent).code) return;
    const told = Array.isArray(reason) ? reason[0]?.message : null;
    this.set({ notice: told ?? "The stream ended; the ledger is shown anew." });
    void pause(1_000).then(() => (this.ended ? undefined : this.begin(0)));
  }

  private take(line: Line): void {
    this.last = orderOf(line);
    this.fresh.push(line);
    this.timer ??= setTimeout(() => this.flush(), FLUSH_MS);
  }

  private flush(): void {
    clearTimeout(this.timer);
    this.timer = undefined;
    if (this.fresh.length === 0) return;
    const events = [...this.fresh.reverse(), ...this.state.events].slice(0, EVENTS_MAX);
    const received = this.state.received + this.fresh.length;
    const gaps = this.state.gaps.map((gap) => counted(gap, this.fresh.filter((line) => isLate(line, gap)), 1));
    this.fresh = [];
    this.set({ events, received, gaps });
  }

  private lost(): void {
    if (this.ended || this.state.standing !== "live") return;
    this.flush();
    const open = this.state.gaps.find(({ through }) => through === null);
    if (open) {
      // It was back too short a time to ask how far the ledger had gone: that is one gap, not two.
      const gaps = this.state.gaps.map((gap) => (gap === open ? { ...gap, backAt: null } : gap));
      return this.set({ standing: "lost", gaps });
    }
    const gap: Gap = {
      id: Date.now(),
      lostAt: new Date(),
      backAt: null,
      after: this.last,
      through: null,
      late: new Map(),
    };
    this.set({ standing: "lost", gaps: [gap, ...this.state.gaps].slice(0, GAPS_MAX) });
  }

  private back(): void {
    if (this.ended) return;
    const gaps = this.state.gaps.map((gap) => (gap.through === null ? { ...gap, backAt: new Date() } : gap));
    this.set({ standing: "live", gaps, notice: null });
    if (gaps.some(({ through }) => through === null)) void this.bound(++this.returns);
  }

  /** Asks up to where the ledger had gone when the connection came back: until it is told, or lost again. */
  private async bound(mine: number, attempt = 0): Promise<void> {
    const { data } = await this.link.client.query(HeadDocument, {}).toPromise();
    if (this.ended || mine !== this.returns || this.state.standing !== "live") return;
    if (!data) {
      await pause(Math.min(WAIT_MS_MAX, 250 * 2 ** attempt));
      return this.bound(mine, attempt + 1);
    }
    this.flush();
    const gaps = this.state.gaps.map((gap) => {
      if (gap.through !== null) return gap;
      const through = Math.max(gap.after, data.ledgerHead.sequence);
      // What happened after it came back was counted as well.
      const newer = this.state.events.filter((line) => isLate(line, gap) && orderOf(line) > through);
      return counted({ ...gap, through }, newer, -1);
    });
    this.set({ gaps });
  }

  private set(change: Partial<FeedState>): void {
    this.state = { ...this.state, ...change };
    for (const listener of this.listeners) listener();
  }
}
