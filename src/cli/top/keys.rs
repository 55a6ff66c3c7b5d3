//! What a person has chosen: view, order, filter, selection; and what each key changes.

use std::collections::BTreeMap;

use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

use super::lists::{self, Table};
use super::model::{Block, Data};
use super::source::{Answered, FIRST_REACH, Wish};

/// Longest text of a filter or a line, in characters.
const MAX_TYPED: usize = 400;

/// How far a chart reaches back, in seconds, and which of these it is at first.
const REACHES: [f64; 6] = [300.0, 900.0, FIRST_REACH, 3600.0, 21_600.0, 86_400.0];
const FIRST: usize = 2;

/// A list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum View {
    Series,
    Senders,
    TagKeys,
    Presence,
    Sinks,
    Losses,
    Lines,
}

impl View {
    pub(super) const ALL: [View; 7] =
        [View::Series, View::Senders, View::TagKeys, View::Presence, View::Sinks, View::Losses, View::Lines];

    pub(super) fn title(self) -> &'static str {
        match self {
            View::Series => "Series",
            View::Senders => "Senders",
            View::TagKeys => "Tag keys",
            View::Presence => "Presence",
            View::Sinks => "Sinks",
            View::Losses => "Losses",
            View::Lines => "Lines",
        }
    }

    /// Its key: `1` for the first.
    pub(super) fn number(self) -> usize {
        View::ALL.iter().position(|view| *view == self).unwrap_or_default() + 1
    }

    fn beside(self, step: usize) -> View {
        View::ALL[(self.number() - 1 + step) % View::ALL.len()]
    }
}

/// Orders of the series, which the daemon sorts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SeriesOrder {
    Loudest,
    Name,
    Changed,
    Newest,
}

impl SeriesOrder {
    const ALL: [SeriesOrder; 4] = [SeriesOrder::Loudest, SeriesOrder::Name, SeriesOrder::Changed, SeriesOrder::Newest];

    /// As the API has it.
    pub(super) fn name(self) -> &'static str {
        match self {
            SeriesOrder::Loudest => "loudest",
            SeriesOrder::Name => "name",
            SeriesOrder::Changed => "changed",
            SeriesOrder::Newest => "newest",
        }
    }
}

/// What the keys act on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    List,
    /// A filter is typed.
    Filter,
    Chart,
    /// The prefixes of a sender.
    Prefixes,
    Help,
    /// A line is typed and explained.
    Explain,
}

/// How a list is looked at.
#[derive(Clone, Debug, Default)]
pub(super) struct Look {
    pub(super) filter: String,
    /// The column that it is sorted by; `None` for the list's own order.
    pub(super) sort: Option<usize>,
    pub(super) is_reversed: bool,
    /// What is selected, and where that was.
    pub(super) selected: Option<String>,
    pub(super) cursor: usize,
    /// The first row on the screen.
    pub(super) top: usize,
}

/// What the loop has to do after a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Action {
    Nothing,
    Draw,
    /// Draw every cell anew.
    Redraw,
    Suspend,
    Quit,
}

/// The whole state.
#[derive(Debug)]
pub(super) struct App {
    /// Where the daemon is, without a login.
    pub(super) url: String,
    pub(super) utf8: bool,
    pub(super) colours: bool,
    pub(super) live: Data,
    /// What is shown while the screen is frozen, and the number of the wish then.
    frozen_data: Option<(Box<Data>, u64)>,
    pub(super) view: View,
    pub(super) mode: Mode,
    pub(super) order: SeriesOrder,
    looks: BTreeMap<View, Look>,
    /// The line that is typed, and the one that is explained.
    pub(super) typed: String,
    explained: Option<String>,
    pub(super) sender: Option<String>,
    /// How far the chart reaches back: one of [`REACHES`].
    reach: usize,
    /// Whether the screen has room for a chart beside the list, and for the lower blocks.
    pub(super) has_side: bool,
    pub(super) has_blocks: bool,
    /// Rows of the list, for paging.
    pub(super) page: usize,
    wish: Wish,
}

impl App {
    pub(super) fn new(url: String, utf8: bool, colours: bool) -> App {
        App {
            url,
            utf8,
            colours,
            live: Data::default(),
            frozen_data: None,
            view: View::Series,
            mode: Mode::List,
            order: SeriesOrder::Loudest,
            looks: BTreeMap::new(),
            typed: String::new(),
            explained: None,
            sender: None,
            reach: FIRST,
            has_side: false,
            has_blocks: true,
            page: 10,
            wish: Wish {
                number: 1,
                view: View::Series,
                query: String::new(),
                order: SeriesOrder::Loudest,
                chart: None,
                reach_secs: REACHES[FIRST],
                sender: None,
                line: None,
                blocks: true,
            },
        }
    }

    /// The name of the daemon's machine, or what stands in the URL.
    pub(super) fn node(&self) -> String {
        let host = self.url.split("://").nth(1).unwrap_or(&self.url).trim_end_matches('/');
        self.data().status()["node"].as_str().unwrap_or(host).to_string()
    }

    /// What is shown.
    pub(super) fn data(&self) -> &Data {
        self.frozen_data.as_ref().map_or(&self.live, |(data, _)| data)
    }

    pub(super) fn is_paused(&self) -> bool {
        self.frozen_data.is_some()
    }

    pub(super) fn look(&self) -> Look {
        self.looks.get(&self.view).cloned().unwrap_or_default()
    }

    pub(super) fn look_mut(&mut self) -> &mut Look {
        self.looks.entry(self.view).or_default()
    }

    /// What has to be asked for now.
    pub(super) fn wish(&mut self) -> Wish {
        let selected = (self.view == View::Series).then(|| self.selected_key()).flatten();
        let wish = Wish {
            number: self.wish.number,
            view: self.view,
            query: self.looks.get(&View::Series).map_or_else(String::new, |look| look.filter.trim().to_string()),
            order: self.order,
            chart: selected.filter(|_| self.mode == Mode::Chart || self.has_side),
            reach_secs: REACHES[self.reach],
            sender: self.sender.clone().filter(|_| self.mode == Mode::Prefixes),
            line: self.explained.clone().filter(|_| self.mode == Mode::Explain),
            blocks: self.has_blocks,
        };
        if wish != self.wish {
            // What is known of another one is not shown as if it were of this one.
            let data = self.frozen_data.as_mut().map_or(&mut self.live, |(data, _)| &mut **data);
            if wish.chart != self.wish.chart {
                (data.chart, data.details) = (Block::Awaited, Block::Awaited);
            }
            if wish.sender != self.wish.sender {
                data.prefixes = Block::Awaited;
            }
            if wish.line != self.wish.line {
                data.explained = Block::Awaited;
            }
            self.wish = Wish { number: self.wish.number + 1, ..wish };
        }
        self.wish.clone()
    }

    /// Takes an answer to a wish, at `now` Unix seconds.
    pub(super) fn take(&mut self, of: &Wish, answered: Answered, now: f64) {
        // What was asked for by another choice is of something else; of the same choice it is good, whatever else has changed.
        let wish = &self.wish;
        let (is_own, is_wished) = match answered {
            Answered::Series(_) => (true, of.query == wish.query && of.order == wish.order),
            Answered::Chart(_) => (true, of.chart == wish.chart && of.reach_secs == wish.reach_secs),
            Answered::Details(_) => (true, of.chart == wish.chart),
            Answered::Prefixes(_) => (true, of.sender == wish.sender),
            Answered::Explained(_) => (true, of.line == wish.line),
            _ => (false, true),
        };
        if !is_wished {
            return;
        }
        if let Some((data, paused_at)) = &mut self.frozen_data
            && is_own
            && of.number > *paused_at
        {
            put(data, answered.clone(), now);
        }
        put(&mut self.live, answered, now);
    }

    /// The list of the view, filtered and sorted.
    pub(super) fn table(&self) -> Table {
        lists::table(self)
    }

    /// The key of the selected row: the first one, until another is selected.
    pub(super) fn selected_key(&self) -> Option<String> {
        let table = self.table();
        table.rows.get(self.row_selected(&table)).map(|row| row.key.clone())
    }

    /// Where the selected row is now.
    pub(super) fn row_selected(&self, table: &Table) -> usize {
        let look = self.look();
        let found = look.selected.as_ref().and_then(|key| table.rows.iter().position(|row| row.key == *key));
        found.unwrap_or_else(|| look.cursor.min(table.rows.len().saturating_sub(1)))
    }

    fn select(&mut self, step: impl FnOnce(usize) -> usize) {
        let table = self.table();
        let cursor = step(self.row_selected(&table)).min(table.rows.len().saturating_sub(1));
        let selected = table.rows.get(cursor).map(|row| row.key.clone());
        let look = self.look_mut();
        (look.cursor, look.selected) = (cursor, selected);
    }

    fn show(&mut self, view: View) {
        (self.view, self.mode) = (view, Mode::List);
    }

    /// What a key does.
    pub(super) fn press(&mut self, key: KeyEvent) -> Action {
        let is_ctrl = key.modifiers.contains(KeyModifiers::CONTROL);
        match key.code {
            KeyCode::Char('c') if is_ctrl => return Action::Quit,
            KeyCode::Char('z') if is_ctrl => return Action::Suspend,
            KeyCode::Char('l') if is_ctrl => return Action::Redraw,
            _ => {}
        }
        match self.mode {
            Mode::Filter => self.type_filter(key, is_ctrl),
            Mode::Explain => self.type_line(key, is_ctrl),
            Mode::Help => {
                self.mode = Mode::List;
                if key.code == KeyCode::Char('q') { Action::Quit } else { Action::Draw }
            }
            Mode::List | Mode::Chart | Mode::Prefixes => self.command(key.code),
        }
    }

    fn command(&mut self, code: KeyCode) -> Action {
        let page = self.page.max(1);
        match code {
            KeyCode::Char('q') => return Action::Quit,
            KeyCode::Char(digit @ '1'..='7') => self.show(View::ALL[digit as usize - '1' as usize]),
            KeyCode::Tab | KeyCode::Right => self.show(self.view.beside(1)),
            KeyCode::BackTab | KeyCode::Left => self.show(self.view.beside(View::ALL.len() - 1)),
            KeyCode::Down | KeyCode::Char('j') => self.select(|row| row + 1),
            KeyCode::Up | KeyCode::Char('k') => self.select(|row| row.saturating_sub(1)),
            KeyCode::PageDown => self.select(|row| row + page),
            KeyCode::PageUp => self.select(|row| row.saturating_sub(page)),
            KeyCode::Home | KeyCode::Char('g') => self.select(|_| 0),
            KeyCode::End | KeyCode::Char('G') => self.select(|_| usize::MAX),
            KeyCode::Enter => self.open(),
            KeyCode::Esc => self.back(),
            KeyCode::Char('s') => self.sort(),
            KeyCode::Char('r') => {
                let look = self.look_mut();
                look.is_reversed = !look.is_reversed;
            }
            KeyCode::Char('/') => self.mode = Mode::Filter,
            KeyCode::Char(' ') => {
                self.frozen_data = match self.frozen_data.take() {
                    Some(_) => None,
                    None => Some((Box::new(self.live.clone()), self.wish.number)),
                };
            }
            KeyCode::Char('+' | '=') => self.reach = self.reach.saturating_sub(1),
            KeyCode::Char('-') => self.reach = (self.reach + 1).min(REACHES.len() - 1),
            KeyCode::Char('e') => self.explain(),
            KeyCode::Char('?' | 'h') => self.mode = Mode::Help,
            _ => return Action::Nothing,
        }
        Action::Draw
    }

    /// Opens what is selected: a chart, the prefixes of a sender, the series of a tag key, the explanation of a line.
    fn open(&mut self) {
        let Some(key) = self.selected_key() else { return };
        match self.view {
            View::Series => self.mode = if self.mode == Mode::Chart { Mode::List } else { Mode::Chart },
            View::Senders => (self.sender, self.mode) = (Some(key), Mode::Prefixes),
            View::TagKeys => {
                self.looks.entry(View::Series).or_default().filter = format!("{key}:");
                self.show(View::Series);
            }
            View::Losses | View::Lines => self.explain(),
            View::Presence | View::Sinks => {}
        }
    }

    fn back(&mut self) {
        match self.mode {
            Mode::List => self.look_mut().filter.clear(),
            Mode::Filter | Mode::Chart | Mode::Prefixes | Mode::Help | Mode::Explain => self.mode = Mode::List,
        }
    }

    /// The next column to sort by; after the last one the list's own order.
    fn sort(&mut self) {
        if self.view == View::Series {
            let at = SeriesOrder::ALL.iter().position(|order| *order == self.order).unwrap_or_default();
            self.order = SeriesOrder::ALL[(at + 1) % SeriesOrder::ALL.len()];
        } else {
            let columns = self.table().columns;
            let sortable: Vec<usize> = (0..columns.len()).filter(|n| columns[*n].sorts).collect();
            let look = self.look_mut();
            let at = look.sort.and_then(|sort| sortable.iter().position(|n| *n == sort));
            look.sort = sortable.get(at.map_or(0, |at| at + 1)).copied();
        }
        let look = self.look_mut();
        (look.selected, look.cursor, look.top) = (None, 0, 0);
    }

    /// Opens the explanation of the selected line, or of a line of the selected series.
    fn explain(&mut self) {
        let table = self.table();
        let row = table.rows.get(self.row_selected(&table));
        if let Some(line) = row.and_then(|row| row.line.clone()) {
            self.explained = Some(line.clone());
            self.typed = line;
        }
        self.mode = Mode::Explain;
    }

    fn type_filter(&mut self, key: KeyEvent, is_ctrl: bool) -> Action {
        let look = self.looks.entry(self.view).or_default();
        match key.code {
            KeyCode::Enter => self.mode = Mode::List,
            KeyCode::Esc => {
                look.filter.clear();
                self.mode = Mode::List;
            }
            KeyCode::Up | KeyCode::Down => {
                self.mode = Mode::List;
                return self.command(key.code);
            }
            code => {
                if !edit(&mut look.filter, code, is_ctrl) {
                    return Action::Nothing;
                }
                (look.selected, look.cursor, look.top) = (None, 0, 0);
            }
        }
        Action::Draw
    }

    fn type_line(&mut self, key: KeyEvent, is_ctrl: bool) -> Action {
        match key.code {
            KeyCode::Esc => self.mode = Mode::List,
            KeyCode::Enter => self.explained = Some(self.typed.clone()).filter(|line| !line.is_empty()),
            code if !edit(&mut self.typed, code, is_ctrl) => return Action::Nothing,
            _ => {}
        }
        Action::Draw
    }
}

/// Edits at the end of a text; `false` if the key is another.
fn edit(text: &mut String, code: KeyCode, is_ctrl: bool) -> bool {
    match code {
        KeyCode::Char('u') if is_ctrl => text.clear(),
        KeyCode::Char('w') if is_ctrl => {
            let kept = text.trim_end().rfind(' ').map_or(0, |at| at + 1);
            text.truncate(kept);
        }
        KeyCode::Char(c) if !is_ctrl => {
            if text.chars().count() < MAX_TYPED {
                text.push(c);
            }
        }
        KeyCode::Backspace => drop(text.pop()),
        _ => return false,
    }
    true
}

fn put(data: &mut Data, answered: Answered, now: f64) {
    match answered {
        Answered::Status { status, ahead } => data.take_status(status, ahead, now),
        Answered::Trouble(trouble) => data.trouble = Some(trouble),
        Answered::Ledger(block) => data.ledger = block,
        Answered::Series(block) => data.series = block,
        Answered::Senders(block) => data.senders = block,
        Answered::Prefixes(block) => data.prefixes = block,
        Answered::Presence(block) => data.presence = block,
        Answered::Events(block) => data.events = block,
        Answered::Chart(block) => data.chart = block,
        Answered::Details(block) => data.details = block,
        Answered::Explained(block) => data.explained = block,
        Answered::Lines(block) => data.take_lines(block),
    }
}
