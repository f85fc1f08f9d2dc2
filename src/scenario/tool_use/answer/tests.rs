use super::*;

/// Text, and the canonical form of the number expected; `-` for none.
const TABLE: &[(&str, &str)] = &[
    // Boxes.
    (r"\boxed{42}", "42"),
    (r"so \boxed{ 42 }.", "42"),
    (r"\boxed{1} then \boxed{2}", "2"),
    (r"\boxed{2} and 3 more", "2"),
    (r"The answer is 7. \boxed{8}", "8"),
    (r"\boxed{8} The answer is 7.", "8"),
    (r"\boxed{-17}", "-17"),
    (r"\boxed{−17}", "-17"),
    (r"\boxed{1,234,567}", "1234567"),
    (r"\boxed{1{,}234{,}567}", "1234567"),
    (r"\boxed{1\,234\,567}", "1234567"),
    (r"\boxed{12\!345}", "12345"),
    (r"\boxed{12,\!345}", "12345"),
    (r"\boxed{\frac{3}{4}}", "3/4"),
    (r"\boxed{\dfrac{6}{8}}", "3/4"),
    (r"\boxed{-\tfrac{3}{4}}", "-3/4"),
    (r"\boxed{\frac{-3}{4}}", "-3/4"),
    (r"\boxed{\frac34}", "3/4"),
    (r"\boxed{\frac{ 3 }{ 4 }}", "3/4"),
    (r"\boxed{2\frac{1}{2}}", "5/2"),
    (r"\boxed{2 1/2}", "5/2"),
    (r"\boxed{2½}", "5/2"),
    (r"\boxed{3/4}", "3/4"),
    (r"\boxed{3 / 4}", "3/4"),
    (r"\boxed{0.75}", "0.75"),
    (r"\boxed{.75}", "0.75"),
    (r"\boxed{42.}", "42"),
    (r"\boxed{\text{42}}", "42"),
    (r"\boxed{42 \text{ apples}}", "42"),
    (r"\boxed{42\text{ cm}^2}", "42"),
    (r"\boxed{42\ \mathrm{m/s}}", "42"),
    (r"\boxed{\mathbf{42}}", "42"),
    (r"\boxed{\text{The answer is } 42}", "42"),
    (r"\boxed{x = 42}", "42"),
    (r"\boxed{a + b = 40 + 2 = 42}", "42"),
    (r"\boxed{\$42}", "42"),
    (r"\boxed{$42$}", "42"),
    (r"\boxed{\$1,050.50}", "1050.5"),
    (r"\boxed{25\%}", "25%"),
    (r"\boxed{25 \%}", "25%"),
    (r"\boxed{90^\circ}", "90"),
    (r"\boxed{90^{\circ}}", "90"),
    (r"\boxed{1.2 \times 10^5}", "120000"),
    (r"\boxed{1.2\cdot10^{-2}}", "0.012"),
    (r"\boxed{10^{6}}", "1000000"),
    (r"\boxed{1.5e3}", "1500"),
    (r"\boxed{\left( 5 \right)}", "5"),
    (r"\boxed{{5}}", "5"),
    (r"\boxed{\boxed{5}}", "5"),
    (r"\fbox{5}", "5"),
    (r"\boxed 5", "5"),
    (r"\boxed{5} and \boxed{}", "5"),
    (r"put it in \boxed{}: 12", "12"),
    (r"\boxed{5} then \boxed{unclosed", "5"),
    (r"{ \boxed{5} ", "5"),
    (r"\{ \boxed{5} \}", "5"),
    (r"\boxed{\approx 3.14}", "3.14"),
    (
        r"\boxed{123456789012345678901234567890123456789012345}",
        "123456789012345678901234567890123456789012345",
    ),
    // Boxes without a number.
    (r"\boxed{\text{none}} but 5", "-"),
    (r"\boxed{2\pi}", "-"),
    (r"\boxed{\frac{\pi}{2}}", "-"),
    (r"\boxed{2\sqrt{3}}", "-"),
    (r"\boxed{2^{10}}", "-"),
    (r"\boxed{3 + 4}", "-"),
    (r"\boxed{5x}", "-"),
    (r"\boxed{(3, 4)}", "-"),
    (r"\boxed{1, 2, 3}", "-"),
    (r"\boxed{1/0}", "-"),
    (r"\boxed{\pm 5}", "-"),
    // Said.
    ("The answer is 42.", "42"),
    ("the answer is: **42** apples", "42"),
    ("The final answer is $42.", "42"),
    ("The answer is 6 × 7 = 42. I used 3 steps.", "42"),
    ("Answer: 42\nChecked 3 times.", "42"),
    ("**Answer:** 42, from 10 and 32", "42"),
    ("Answer:\n\n42", "42"),
    ("ANSWER = -3", "-3"),
    ("The answer is 1. No: the answer is 2.", "2"),
    ("The answer is unclear. I take 9", "9"),
    ("The answer is 12. The answer is unclear.", "12"),
    ("the answer is \\(\\frac{1}{2}\\)", "1/2"),
    ("my answers: 4, then the total is 10", "10"),
    ("The answer is 3.5 hours", "3.5"),
    ("The answer would be 1,500", "1500"),
    // Last number.
    ("First 3, then 4", "4"),
    ("10-3", "3"),
    ("pages 3–5", "5"),
    ("it drops to -5", "-5"),
    ("it drops to (−5)", "-5"),
    ("costs $1,234.50 in all", "1234.5"),
    ("that is 20 % of it", "20%"),
    ("x2 + H2O in room_7", "-"),
    ("use a 12kg bag", "12"),
    ("about 1.2×10⁵ people", "120000"),
    ("version 1.2.3", "-"),
    ("it is 12.", "12"),
    ("numbers 100, 200", "200"),
    ("half of it, ½", "1/2"),
    (
        "1 234 567 with no-break spaces: 1\u{a0}234\u{a0}567",
        "1234567",
    ),
    ("0x1f", "-"),
    ("", "-"),
    ("no number at all", "-"),
    // Thoughts, calls and results do not count.
    (r"<think>\boxed{1}</think>\boxed{2}", "2"),
    (r"\boxed{1}</think>it is 2", "2"),
    (r"<think>\boxed{1}", "-"),
    (r"<think>a</think> 3 <think>4</think> 5 <think>6", "5"),
    ("<tool>print(7)</tool>\n<result>\n7\n</result>\n", "-"),
    (
        "It is 3. <tool>print(7)</tool>\n<result>\n7\n</result>\n",
        "3",
    ),
    ("<tool>print(7)</tool>\n<result>\n7\n</result>\nSo 8", "8"),
    (r"<result>\boxed{9}</result> 4", "4"),
    ("5 <tool>print(6)", "5"),
    (r"\boxed{1<tool>2</tool>3}", "-"),
];

#[test]
fn the_table() {
    assert!(TABLE.len() >= 80);
    let mut wrong = Vec::new();
    for (text, expected) in TABLE {
        let got = extract(text).map_or("-".to_owned(), |n| n.to_string());
        if got != *expected {
            wrong.push(format!("{text:?}: expected {expected}, got {got}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn correct_or_not() {
    for (text, answer, right) in [
        (r"\boxed{42}", "42", true),
        (r"\boxed{42.0005}", "42", true),
        (r"\boxed{42.01}", "42", false),
        (r"\boxed{25\%}", "1/4", true),
        (r"\boxed{0.3333}", "1/3", true),
        (r"\boxed{1/3}", "0.3333", true),
        (r"\boxed{1/3}", "333/1000", false),
        ("nothing", "42", false),
        (r"\boxed{42}", "not a number", false),
    ] {
        assert_eq!(is_correct(text, answer), right, "{text} against {answer}");
    }
}

#[test]
fn hostile_text_is_read_in_linear_time() {
    let start = std::time::Instant::now();
    let many = 400_000;
    for text in [
        r"\boxed{".repeat(many),
        "{".repeat(4 * many),
        "}".repeat(4 * many),
        "1 ".repeat(2 * many),
        "1/".repeat(2 * many),
        "9".repeat(4 * many),
        format!("{}.{}", "9".repeat(many), "9".repeat(many)),
        "1,".repeat(2 * many),
        "123,".repeat(many),
        "1e".repeat(2 * many),
        "-".repeat(4 * many),
        "$".repeat(4 * many),
        r"\frac{".repeat(many),
        r"\frac{1".repeat(many),
        "answer ".repeat(many),
        "answer is ".repeat(many),
        "answer: x\n".repeat(many),
        "=".repeat(4 * many),
        format!(r"\boxed{{{}}}", r"\text{".repeat(many)),
        format!(r"\boxed{{{}}}", "1 ".repeat(many)),
        format!(r"\boxed{{{}5}}", "a ".repeat(many)),
        format!(r"\boxed{{{}}}", "$-".repeat(many)),
        format!("the answer is {}", "x".repeat(4 * many)),
        "<think>".repeat(many),
        "</think>".repeat(many),
        "1<tool></tool>".repeat(many / 4),
        "¼⁵−".repeat(many),
    ] {
        let one = std::time::Instant::now();
        extract(&text);
        let start: String = text.chars().take(30).collect();
        assert!(one.elapsed().as_secs() < 5, "{start}: {:?}", one.elapsed());
    }
    assert!(start.elapsed().as_secs() < 60, "{:?}", start.elapsed());
}

#[test]
fn a_number_beyond_exact_arithmetic_is_the_one_it_is_written_as() {
    // Found by the fuzz target `numbers`.
    let text = "2222222222220000000000000001791399088925821/2";
    let number = Numeric::parse(text).expect("a number");
    let again = Numeric::parse(&number.to_string()).expect("a number");
    assert!(number.matches(&again) && again.matches(&number));
    assert!(is_correct(text, &number.to_string()));
    assert!(!is_correct(
        text,
        "1111111111120000000000000000000000000000000"
    ));
}
