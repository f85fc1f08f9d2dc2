//! A standalone SVG chart as PNG, drawn by resvg with a font of our own, so that the same chart gives the same bytes on
//! any machine, fonts installed or not.

use std::sync::{Arc, LazyLock};

use resvg::tiny_skia::{Pixmap, Transform};
use resvg::usvg::{Options, Tree, fontdb};

/// Some glyphs of Inter: Latin, Greek, arrows and signs.
const FONT: &[u8] = include_bytes!("font/plot.otf");

/// Pixels a user unit: sharp in print at the size of a column.
const SCALE: f32 = 2.0;

static FONTS: LazyLock<Arc<fontdb::Database>> = LazyLock::new(|| {
    let mut fonts = fontdb::Database::new();
    fonts.load_font_data(FONT.to_vec());
    Arc::new(fonts)
});

/// Why a chart has no picture.
#[derive(Debug, thiserror::Error)]
pub enum PictureError {
    /// Not SVG that can be read.
    #[error("chart as PNG: expected an SVG chart, got {0}")]
    Svg(#[from] resvg::usvg::Error),
    /// No pixels, or too many.
    #[error("chart as PNG: expected a size that fits into memory, got {0} by {1} pixels")]
    Size(u32, u32),
    /// The pixels could not be packed.
    #[error("chart as PNG: {0}")]
    Png(String),
}

/// The PNG of a chart from [`super::svg::standalone`].
///
/// # Errors
/// SVG that cannot be read, or of a size that cannot be drawn.
pub fn picture(svg: &str) -> Result<Vec<u8>, PictureError> {
    let options = Options {
        font_family: "Inter".into(),
        fontdb: Arc::clone(&FONTS),
        ..Options::default()
    };
    let tree = Tree::from_str(svg, &options)?;
    let size = tree.size();
    let pixels = |length: f32| (length * SCALE).ceil() as u32;
    let (width, height) = (pixels(size.width()), pixels(size.height()));
    let mut canvas = Pixmap::new(width, height).ok_or(PictureError::Size(width, height))?;
    let scale = Transform::from_scale(SCALE, SCALE);
    resvg::render(&tree, scale, &mut canvas.as_mut());
    canvas
        .encode_png()
        .map_err(|error| PictureError::Png(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::simulation::report;

    /// Pixels of a PNG.
    fn read(png: &[u8]) -> Pixmap {
        Pixmap::decode_png(png).unwrap()
    }

    #[test]
    fn the_same_chart_gives_the_same_bytes_with_colours_and_text() {
        let svg = &crate::report::render_figures(&report())[0].1;
        let png = picture(svg).unwrap();
        assert_eq!(png, picture(svg).unwrap());
        let drawn = read(&png);
        assert_eq!((drawn.width(), drawn.height()), (1504, 824));
        let has = |r, g, b| {
            drawn
                .pixels()
                .iter()
                .any(|p| (p.red(), p.green(), p.blue()) == (r, g, b))
        };
        // Blue of DPO, vermilion of GRPO, white ground.
        assert!(has(0, 0x72, 0xb2) && has(0xd5, 0x5e, 0) && has(255, 255, 255));
        // Text is drawn: without it fewer pixels are dark.
        let dark = |map: &Pixmap| map.pixels().iter().filter(|p| p.green() < 110).count();
        let start = svg.find("<text").unwrap();
        let mute = format!(
            "{}{}",
            &svg[..start],
            svg[start..]
                .replace("<text", "<desc")
                .replace("</text>", "</desc>")
        );
        assert!(dark(&drawn) > dark(&read(&picture(&mute).unwrap())) + 1000);
    }

    #[test]
    fn what_is_no_chart_is_refused() {
        assert!(matches!(picture("<p>"), Err(PictureError::Svg(_))));
    }
}
