//! A row of GSM8K as a simple problem. Its calculator annotations, `<<48/2=24>>`, are the computation steps, and from
//! them comes a program, where each of them and the answer is exact.

use crate::scenario::question::Split;
use crate::scenario::tool_use::{Difficulty, Numeric, Problem, Source, simple_criteria};

/// Deepest nesting of brackets that is followed.
const DEEPEST: usize = 32;
/// No number in an annotation may be above this: the criterion of the texts.
const LARGEST: f64 = 1000.0;

/// A row, or the criterion that it fails.
///
/// # Errors
/// The criterion.
pub(super) fn problem(
    question: &str,
    solution: &str,
    split: Split,
) -> Result<Problem, &'static str> {
    let text = question.split_whitespace().collect::<Vec<_>>().join(" ");
    let answer = solution.rsplit_once("####").ok_or("a final answer")?.1;
    let answer = Numeric::parse(answer.trim().trim_start_matches('$')).ok_or("a numeric answer")?;
    let answer = answer.to_string();
    let steps = annotations(solution);
    let count = u32::try_from(steps.len()).unwrap_or(u32::MAX);
    simple_criteria(&text, count, &answer)?;
    let small = |text: &str| Numeric::parse(text).is_none_or(|n| n.to_f64().abs() <= LARGEST);
    if !steps.iter().all(|(_, value)| small(value)) {
        return Err("numbers of at most 1000");
    }
    Ok(Problem {
        id: String::new(),
        split,
        difficulty: Difficulty::Simple,
        family: "gsm8k".to_owned(),
        phrasing: text.clone(),
        text,
        parameters: String::new(),
        program: program(&steps, &answer),
        answer,
        steps: count,
        source: Source::Gsm8k,
    })
}

/// The annotations as expression and value.
fn annotations(solution: &str) -> Vec<(&str, &str)> {
    let pieces = solution.split("<<").skip(1);
    let inner = pieces.filter_map(|piece| piece.split_once(">>"));
    inner
        .filter_map(|(inner, _)| inner.rsplit_once('='))
        .map(|(expression, value)| (expression.trim(), value.trim()))
        .collect()
}

/// Python that redoes the annotations in exact fractions and prints the last value; `None` unless all of them hold and
/// the last one is the answer.
fn program(steps: &[(&str, &str)], answer: &str) -> Option<String> {
    let mut code = "from fractions import Fraction as F\n".to_owned();
    let mut last = None;
    for (i, (expression, value)) in steps.iter().enumerate() {
        let mut reader = Reader {
            text: expression.as_bytes(),
            at: 0,
            python: String::new(),
        };
        let result = reader.sum(0)?;
        if reader.peek().is_some() || Numeric::parse(value)?.as_ratio()? != result {
            return None;
        }
        code.push_str(&format!("step{} = {}\n", i + 1, reader.python));
        last = Some(result);
    }
    if Numeric::parse(answer)?.as_ratio()? != last? {
        return None;
    }
    let name = format!("step{}", steps.len());
    code.push_str(&format!(
        "print({name}.numerator if {name}.denominator == 1 else float({name}))\n"
    ));
    Some(code)
}

/// Numerator and denominator in lowest terms.
type Ratio = (i128, i128);

/// Reads an expression of numbers, `+ - * /` and brackets, computing its value and its Python at once.
struct Reader<'a> {
    text: &'a [u8],
    at: usize,
    python: String,
}

impl Reader<'_> {
    fn peek(&mut self) -> Option<u8> {
        while self.text.get(self.at) == Some(&b' ') {
            self.at += 1;
        }
        self.text.get(self.at).copied()
    }

    fn take(&mut self, python: &str) {
        self.at += 1;
        self.python.push_str(python);
    }

    fn sum(&mut self, depth: usize) -> Option<Ratio> {
        let mut value = self.product(depth)?;
        while let Some(sign @ (b'+' | b'-')) = self.peek() {
            self.take(if sign == b'+' { " + " } else { " - " });
            let (n, d) = self.product(depth)?;
            let n = if sign == b'+' { n } else { -n };
            let left = value.0.checked_mul(d)?;
            let sum = left.checked_add(n.checked_mul(value.1)?)?;
            value = reduced(sum, value.1.checked_mul(d)?)?;
        }
        Some(value)
    }

    fn product(&mut self, depth: usize) -> Option<Ratio> {
        let mut value = self.factor(depth)?;
        while let Some(sign @ (b'*' | b'/' | b'x')) = self.peek() {
            self.take(if sign == b'/' { " / " } else { " * " });
            let (n, d) = self.factor(depth)?;
            let (n, d) = if sign == b'/' { (d, n) } else { (n, d) };
            value = reduced(value.0.checked_mul(n)?, value.1.checked_mul(d)?)?;
        }
        Some(value)
    }

    fn factor(&mut self, depth: usize) -> Option<Ratio> {
        if depth > DEEPEST {
            return None;
        }
        match self.peek()? {
            b'(' => {
                self.take("(");
                let value = self.sum(depth + 1)?;
                (self.peek()? == b')').then(|| self.take(")"))?;
                Some(value)
            }
            b'-' => {
                self.take("-");
                let (n, d) = self.factor(depth + 1)?;
                Some((-n, d))
            }
            _ => {
                let rest = &self.text[self.at..];
                let digits = |b: &&u8| b.is_ascii_digit() || matches!(b, b'.' | b',');
                let length = rest.iter().take_while(digits).count();
                let text = std::str::from_utf8(&rest[..length]).ok()?;
                let value = Numeric::parse(text)?;
                self.at += length;
                self.python.push_str(&format!("F('{value}')"));
                if self.peek() == Some(b'%') {
                    self.take(" / 100");
                    let (n, d) = value.as_ratio()?;
                    // Python's own precedence must not tear it apart.
                    let at = self.python.rfind("F('")?;
                    self.python.insert(at, '(');
                    self.python.push(')');
                    return reduced(n, d.checked_mul(100)?);
                }
                value.as_ratio()
            }
        }
    }
}

/// In lowest terms, the denominator positive.
fn reduced(numerator: i128, denominator: i128) -> Option<Ratio> {
    Numeric::fraction(numerator, denominator)?.as_ratio()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn annotations_become_a_program_where_they_hold() {
        let table: &[(&str, &str, bool)] = &[
            ("<<48/2=24>> <<48+24=72>>", "72", true),
            ("<<(3+4)*2=14>>", "14", true),
            ("<<20*.5=10>>", "10", true),
            ("<<50%*20=10>>", "10", true),
            ("<<1,000-1=999>>", "999", true),
            ("<<7/2=3.5>>", "3.5", true),
            ("<<-2+5=3>>", "3", true),
            ("<<1/3=0.33>>", "0.33", false),
            ("<<48/2=25>>", "25", false),
            ("<<48/2=24>>", "25", false),
            ("<<4/0=0>>", "0", false),
            ("<<2^3=8>>", "8", false),
            ("<<x+1=8>>", "8", false),
            ("<<(1+2=3>>", "3", false),
            ("", "3", false),
        ];
        for (text, answer, whole) in table {
            let steps = annotations(text);
            assert_eq!(program(&steps, answer).is_some(), *whole, "{text}");
        }
        let code = program(&annotations("<<50%*20=10>> <<10-2*3=4>>"), "4").unwrap();
        assert_eq!(
            code,
            "from fractions import Fraction as F\nstep1 = (F('50') / 100) * F('20')\nstep2 = F('10') - F('2') * F('3')\n\
             print(step2.numerator if step2.denominator == 1 else float(step2))\n"
        );
        let deep = format!("<<{}1{}=1>>", "(".repeat(5000), ")".repeat(5000));
        assert_eq!(program(&annotations(&deep), "1"), None);
    }

    #[test]
    fn the_criteria_are_named() {
        let row = |question: &str, solution: &str| problem(question, solution, Split::Train);
        let good = row(
            "Ann has 3  bags of 12.\nHow many?",
            "3*12=<<3*12=36>>36\n#### 36",
        )
        .unwrap();
        assert_eq!(
            (good.text.as_str(), good.answer.as_str(), good.steps),
            ("Ann has 3 bags of 12. How many?", "36", 1)
        );
        let four = "<<1+1=2>><<2+1=3>><<3+1=4>><<4+1=5>>\n#### 5";
        let table = [
            (row("A?", "<<1+1=2>>2"), "a final answer"),
            (row("A?", "<<1+1=2>>\n#### two"), "a numeric answer"),
            (row("A?", "2\n#### 2"), "1 to 3 computation steps"),
            (row("A?", four), "1 to 3 computation steps"),
            (
                row(&"word ".repeat(51), "<<1+1=2>>\n#### 2"),
                "at most 50 words",
            ),
            (
                row("He has 2000?", "<<1+1=2>>\n#### 2"),
                "numbers of at most 1000",
            ),
            (
                row("A?", "<<50*40=2000>><<2000/1000=2>>\n#### 2"),
                "numbers of at most 1000",
            ),
            (
                row("A?", "<<50*40=2000>>\n#### 2,000"),
                "numbers of at most 1000",
            ),
        ];
        for (row, criterion) in table {
            assert_eq!(row.unwrap_err(), criterion);
        }
    }
}
