//! The date that templates write, and Python's `strftime` for it.

const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];
const DAYS: [&str; 7] = [
    "Monday",
    "Tuesday",
    "Wednesday",
    "Thursday",
    "Friday",
    "Saturday",
    "Sunday",
];

/// A day at midnight. The default, 26 July 2024, is what Llama 3.1's template writes by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Date {
    year: u16,
    month: u8,
    day: u8,
}

impl Default for Date {
    fn default() -> Self {
        Self {
            year: 2024,
            month: 7,
            day: 26,
        }
    }
}

impl Date {
    /// The day of this year (1 to 9999), month and day of the month, both from 1; `None` if there is no such day.
    pub fn new(year: u16, month: u8, day: u8) -> Option<Self> {
        let date = Self { year, month, day };
        let real = (1..=9999).contains(&year)
            && (1..=12).contains(&month)
            && (1..=date.days_in_month(month)).contains(&u16::from(day));
        real.then_some(date)
    }

    fn days_in_month(self, month: u8) -> u16 {
        let every = |years: u16| self.year.is_multiple_of(years);
        let leap = every(4) && (!every(100) || every(400));
        match month {
            2 => 28 + u16::from(leap),
            4 | 6 | 9 | 11 => 30,
            _ => 31,
        }
    }

    /// From 1.
    fn day_of_year(self) -> u16 {
        let before: u16 = (1..self.month).map(|month| self.days_in_month(month)).sum();
        before + u16::from(self.day)
    }

    /// From Monday, 0.
    fn weekday(self) -> usize {
        let years = u32::from(self.year) - 1;
        // 1 January of year 1 is a Monday.
        let days =
            years * 365 + years / 4 - years / 100 + years / 400 + u32::from(self.day_of_year() - 1);
        days as usize % 7
    }

    /// As Python's `strftime` in the C locale.
    ///
    /// # Errors
    /// A directive that is not known here.
    pub(super) fn format(self, format: &str) -> Result<String, String> {
        let mut out = String::new();
        let mut chars = format.chars();
        while let Some(c) = chars.next() {
            if c != '%' {
                out.push(c);
                continue;
            }
            let mut directive = chars.next();
            let bare = directive == Some('-');
            if bare {
                directive = chars.next();
            }
            let number = |n: u16, width: usize| match bare {
                true => n.to_string(),
                false => format!("{n:0width$}"),
            };
            let (month, day) = (MONTHS[usize::from(self.month) - 1], DAYS[self.weekday()]);
            out.push_str(&match directive {
                Some('Y') => self.year.to_string(),
                Some('y') => number(self.year % 100, 2),
                Some('m') => number(self.month.into(), 2),
                Some('d') => number(self.day.into(), 2),
                Some('j') => number(self.day_of_year(), 3),
                Some('B') => month.to_string(),
                Some('b') => month[..3].to_string(),
                Some('A') => day.to_string(),
                Some('a') => day[..3].to_string(),
                Some('H' | 'M' | 'S') => number(0, 2),
                Some('I') => number(12, 2),
                Some('p') => "AM".to_string(),
                Some('F') => format!("{}-{:02}-{:02}", self.year, self.month, self.day),
                Some('%') => "%".to_string(),
                other => {
                    let other = other.map(String::from).unwrap_or_default();
                    return Err(format!(
                        "strftime_now does not know `%{other}` in `{format}`"
                    ));
                }
            });
        }
        Ok(out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `python -c "import datetime as d; print(d.date(2000,2,29).strftime('%Y %y %m %d %j %B %b %A %a %-d %F %%'))"`
    #[test]
    fn dates_are_written_as_python_does() {
        let format = "%Y %y %m %d %j %B %b %A %a %-d %F %%";
        let text = |y, m, d| Date::new(y, m, d).unwrap().format(format).unwrap();
        assert_eq!(
            text(2000, 2, 29),
            "2000 00 02 29 060 February Feb Tuesday Tue 29 2000-02-29 %"
        );
        assert_eq!(
            text(2024, 12, 31),
            "2024 24 12 31 366 December Dec Tuesday Tue 31 2024-12-31 %"
        );
        assert_eq!(
            text(1999, 1, 5),
            "1999 99 01 05 005 January Jan Tuesday Tue 5 1999-01-05 %"
        );
        assert_eq!(
            Date::default().format("%d %b %Y, %A").unwrap(),
            "26 Jul 2024, Friday"
        );
    }

    #[test]
    fn days_that_are_not_and_unknown_directives_are_refused() {
        assert_eq!(Date::new(2023, 2, 29), None);
        assert_eq!(Date::new(2023, 13, 1), None);
        assert_eq!(Date::new(2023, 0, 1), None);
        assert_eq!(Date::new(0, 1, 1), None);
        assert!(Date::default().format("%Q").unwrap_err().contains("%Q"));
        assert!(Date::default().format("%").is_err());
    }
}
