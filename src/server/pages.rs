//! Long lists, in pages: what is left of a list is kept for a while as it was when the list began, so that all pages
//! are of one moment.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::error::ApiError;
use super::patch::size;

/// How long a list may be read.
const LIFE: Duration = Duration::from_secs(300);
/// About how many bytes are kept, of all lists together; the oldest lists go first.
const BYTES: usize = 64 << 20;

/// Lists of which something is left.
#[derive(Clone, Default)]
pub(super) struct Pages {
    lists: Arc<Mutex<VecDeque<List>>>,
}

struct List {
    id: String,
    /// What was asked for.
    query: String,
    version: u64,
    items: Arc<Vec<Value>>,
    bytes: usize,
    began: Instant,
}

/// One page.
pub(super) struct Page {
    /// What is on it.
    pub(super) items: Vec<Value>,
    /// The version that the whole list is of.
    pub(super) version: u64,
    /// How the next one is asked for, and how many objects are left.
    pub(super) next: Option<(String, usize)>,
}

impl Pages {
    /// The first page of a list.
    pub(super) fn begin(&self, query: &str, version: u64, mut items: Vec<Value>, limit: usize) -> Page {
        if items.len() <= limit {
            return Page { items, version, next: None };
        }
        let id = uuid::Uuid::new_v4().simple().to_string();
        let kept = Arc::new(items.split_off(limit));
        let next = Some((format!("{id}.0"), kept.len()));
        let bytes = kept.iter().map(size).sum();
        let list = List { id, query: query.to_owned(), version, items: kept, bytes, began: Instant::now() };
        let mut lists = self.lists.lock().unwrap_or_else(PoisonError::into_inner);
        forget_old(&mut lists);
        lists.push_back(list);
        while lists.len() > 1 && lists.iter().map(|list| list.bytes).sum::<usize>() > BYTES {
            lists.pop_front();
        }
        Page { items, version, next }
    }

    /// A later page.
    pub(super) fn resume(&self, query: &str, token: &str, limit: Option<usize>) -> Result<Page, ApiError> {
        let unknown = || ApiError::bad_request("continue must be as the list before gave it");
        let (id, offset) = token.split_once('.').ok_or_else(unknown)?;
        let offset: usize = offset.parse().map_err(|_| unknown())?;
        let mut lists = self.lists.lock().unwrap_or_else(PoisonError::into_inner);
        forget_old(&mut lists);
        let list = lists.iter().find(|list| list.id == id);
        let list = list.ok_or_else(|| ApiError::expired("the rest of that list is not kept any more"))?;
        if list.query != query {
            return Err(ApiError::bad_request("continue is of a list of something else"));
        }
        let (items, version) = (Arc::clone(&list.items), list.version);
        drop(lists);
        let rest = items.get(offset..).ok_or_else(unknown)?;
        let here = limit.unwrap_or(rest.len()).min(rest.len());
        let left = rest.len() - here;
        let next = (left > 0).then(|| (format!("{id}.{}", offset + here), left));
        Ok(Page { items: rest[..here].to_vec(), version, next })
    }
}

fn forget_old(lists: &mut VecDeque<List>) {
    while lists.front().is_some_and(|list| list.began.elapsed() > LIFE) {
        lists.pop_front();
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn numbers(items: &[Value]) -> Vec<u64> {
        items.iter().map(|item| item.as_u64().unwrap()).collect()
    }

    #[test]
    fn pages_are_of_one_list_and_can_be_read_again() {
        let pages = Pages::default();
        let first = pages.begin("q", 7, (0..5).map(Value::from).collect(), 2);
        let (token, left) = first.next.unwrap();
        assert_eq!((numbers(&first.items), left), (vec![0, 1], 3));
        for _ in 0..2 {
            let second = pages.resume("q", &token, Some(2)).unwrap();
            assert_eq!((numbers(&second.items), second.version), (vec![2, 3], 7));
            let (token, left) = second.next.unwrap();
            assert_eq!(left, 1);
            let last = pages.resume("q", &token, None).unwrap();
            assert!(numbers(&last.items) == [4] && last.next.is_none());
        }
        assert!(pages.resume("other", &token, None).is_err());
        for wrong in ["", "x", "x.y", &token.replace(".0", ".9")] {
            assert!(pages.resume("q", wrong, None).is_err(), "{wrong}");
        }
    }

    #[test]
    fn the_oldest_lists_go_when_there_are_many() {
        let pages = Pages::default();
        let large = || Value::from("x".repeat(BYTES / 3));
        let begin = || pages.begin("q", 1, vec![Value::Null, large()], 1).next.unwrap().0;
        let tokens = [begin(), begin(), begin()];
        let there = tokens.map(|token| pages.resume("q", &token, Some(1)).is_ok());
        assert_eq!(there, [false, true, true]);
    }
}
